"""What users, keys and models have in common."""

from gatehook import Database
from gatehook_plugins.database.trail import Trail
from gatehook_plugins.database.vault import Vault

__all__ = ["Rows"]


class Rows:
    """Some rows of the directory: where they are, who is told of changes, and what hides their secrets."""

    def __init__(self, database: Database, trail: Trail, vault: Vault) -> None:
        self._database = database
        self._trail = trail
        self._vault = vault
