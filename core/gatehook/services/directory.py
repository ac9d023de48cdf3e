"""Users, keys, models and configuration, as administrators keep them in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gatehook.accounts import Change, Key, Limits, User
from gatehook.model import Credential

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection
from gatehook.services.registry import ServiceKey

__all__ = ["DIRECTORY", "Directory"]


class Directory(Protocol):
    """Users, keys, models and configuration. While serving it answers from memory, at most a second late.

    Every change names its `actor`, and adds a line to the audit in the same transaction.
    """

    def recall(self, credential: Credential) -> tuple[User, Key] | None:
        """As `find` for its token, but from memory only; None if the key is not in memory, or nobody's."""
        ...

    async def find(self, token: str) -> tuple[User, Key] | None:
        """A key and its user; None if it is nobody's. The caller checks whether they are expired or disabled.

        Raises:
            Unavailable: the database is away, and what is in memory is too old to be used.
        """
        ...

    async def user(self, user_id: str) -> User | None:
        """One user, from memory if possible.

        Raises:
            Unavailable: as `find`.
        """
        ...

    async def users(self, *, after: str = "", limit: int = 100) -> Sequence[User]:
        """Users in the order of their ids, those after `after`."""
        ...

    async def create_user(self, actor: str, user: User) -> User:
        """Add one.

        Raises:
            Conflict: there is one with this id already. InvalidRequest: the id or a value is not valid.
        """
        ...

    async def change_user(self, actor: str, user_id: str, changes: Mapping[str, Any], *, create: bool = False) -> User:
        """Change fields of `User` (`limits` and `caps` as mappings of theirs, merged); with `create`, add it if new.

        Raises:
            NotFound: there is none. InvalidRequest: a value is not valid.
        """
        ...

    async def delete_user(self, actor: str, user_id: str) -> None:
        """Delete a user and their keys; what they used stays in the ledger.

        Raises:
            NotFound: there is none.
        """
        ...

    async def keys(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[Key]:
        """Keys in the order of their ids, of one user or of all, those after `after`."""
        ...

    async def create_key(
        self,
        actor: str,
        user_id: str,
        *,
        name: str = "",
        admin: bool = False,
        models: frozenset[str] | None = None,
        limits: Limits | None = None,
        expires: int | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its text, which is not kept.

        Raises:
            NotFound: there is no such user. InvalidRequest: a value is not valid.
        """
        ...

    async def change_key(self, actor: str, key_id: str, changes: Mapping[str, Any]) -> Key:
        """Change fields of `Key` (name, admin, disabled, models, limits, expires).

        Raises:
            NotFound: there is none. InvalidRequest: a value is not valid.
        """
        ...

    async def rotate_key(self, actor: str, key_id: str, *, overlap: float) -> tuple[Key, str]:
        """A new key like this one; the old one expires after `overlap` seconds, or earlier if it would anyway.

        Raises:
            NotFound: there is none, or it is revoked or expired.
        """
        ...

    async def revoke_key(self, actor: str, key_id: str) -> None:
        """Delete a key; within a second no process accepts it.

        Raises:
            NotFound: there is none.
        """
        ...

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """The models, each as a [[models]] table plus `id` and `revision`, with `has_api_key` in place of the key."""
        ...

    async def put_model(
        self, actor: str, model_id: str, table: Mapping[str, Any], *, create: bool, revision: int | None = None
    ) -> Mapping[str, Any]:
        """Add a model (a [[models]] table), or with `create` false change what `table` names of one.

        `revision` is the one that the change was made from; None: any.

        Raises:
            Conflict: there is one already, or somebody else has changed it meanwhile. NotFound: there is none.
            InvalidRequest: a value is not valid.
        """
        ...

    async def delete_model(self, actor: str, model_id: str, *, revision: int | None = None) -> None:
        """Delete a model.

        Raises:
            NotFound: there is none. Conflict: somebody else has changed it meanwhile.
        """
        ...

    async def audit(self, *, before: int | None = None, limit: int = 100) -> Sequence[Change]:
        """Changes, the newest first."""
        ...

    async def note(self, connection: AsyncConnection, actor: str, action: str, subject: str, detail: Any) -> int:
        """Add a line to the audit in the transaction of the caller's own change; returns its id."""
        ...

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(kind, id)` when something has changed, in any process; ("", "") if anything may have changed.

        `kind` is the first part of the audit's action: "user", "key", "model", "config".
        """
        ...

    async def refresh(self) -> None:
        """Learn now what other processes have changed; otherwise that takes up to a second.

        Raises:
            Unavailable: the database is away.
        """
        ...

    def config(self, name: str) -> tuple[Mapping[str, Any], int]:
        """What an administrator has set under `name` ("load-balancing"), and its revision; ({}, 0) if nothing.

        From memory, at most a second old while serving. Changes are told to subscribers as ("config", name).
        """
        ...

    async def put_config(
        self, actor: str, name: str, value: Mapping[str, Any], *, revision: int | None = None
    ) -> tuple[Mapping[str, Any], int]:
        """Set the value of `name`, replacing what was there; returns it with its new revision, the audit's id.

        It outlives a restart.

        Args:
            actor: who makes the change.
            name: what the value is kept under.
            value: a JSON object.
            revision: the one that the change was made from; None: any.

        Raises:
            Conflict: somebody else has changed it meanwhile. Unavailable: the database is away.
        """
        ...

    async def merge_config(
        self,
        actor: str,
        name: str,
        changes: Mapping[str, Any],
        *,
        revision: int | None = None,
        check: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> tuple[Mapping[str, Any], int]:
        """Change parts of the value of `name` by a JSON merge patch (RFC 7396), in which None removes a key.

        Changes of others at the same time are not lost.

        Args:
            actor: who makes the change.
            name: what the value is kept under.
            changes: the patch, a JSON object.
            revision: the one that the change was made from; None: any.
            check: is given the whole value before it is stored, and may raise.

        Raises:
            Conflict: somebody else has changed it meanwhile. Unavailable: the database is away.
        """
        ...

    def override(self, name: str) -> tuple[Mapping[str, Any], int]:
        """What is set for a model (by its public name) or a deployment (by its key), and its revision; ({}, 0) if none.

        The keys are those of `put_override`. Changes are told as ("config", "model:NAME").
        """
        ...

    async def put_override(
        self, actor: str, name: str, changes: Mapping[str, Any], *, revision: int | None = None
    ) -> tuple[Mapping[str, Any], int]:
        """Override settings of a model or a deployment, in the catalog too.

        Args:
            actor: who makes the change.
            name: the public name of a model, for all its deployments, or the key of one deployment.
            changes: some of `enabled`, `priority`, `rate_limit` (`requests_per_minute`, `tokens_per_minute`),
                `fallback_models` and `parameters` (`default_temperature`, `max_tokens`); None removes an override.
            revision: the one that the change was made from; None: any.

        Raises:
            ModelNotFound: there is none. InvalidRequest: a value is not valid.
            Conflict: somebody else has changed it meanwhile. Unavailable: the database is away.
        """
        ...


DIRECTORY: ServiceKey[Directory] = ServiceKey("directory", provider="database")
