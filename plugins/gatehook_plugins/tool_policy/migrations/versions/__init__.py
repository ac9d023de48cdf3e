"""Alembic's revisions, the oldest first."""
