"""The way out: requests to vendors, and their answers."""
