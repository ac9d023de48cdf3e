"""The way out: every byte to a vendor, and what comes back."""
