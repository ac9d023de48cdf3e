"""The history of the quota's tables."""
