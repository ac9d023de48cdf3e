"""The history of the directory's tables."""
