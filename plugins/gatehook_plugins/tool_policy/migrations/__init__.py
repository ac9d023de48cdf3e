"""The history of the tool policy's tables."""
