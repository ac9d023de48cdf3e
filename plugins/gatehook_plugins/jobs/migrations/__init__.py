"""The history of the jobs' tables."""
