"""Users, keys, models and what else an administrator keeps."""

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
    """Users and their keys. What it answers while serving comes from memory and is at most a second old.

    Every change names its `actor` and leaves a line in the audit, in the same transaction.
    """

    def recall(self, credential: Credential) -> tuple[User, Key] | None:
        """The same as `find` of its token, if it is in memory; None if it is not, or nobody's."""
        ...

    async def find(self, token: str) -> tuple[User, Key] | None:
        """Whose key this is; None if nobody's. Whether both may be used now (expired, disabled) the caller checks.

        Raises:
            Unavailable: the database cannot be asked, and has not been for longer than an answer may be old.
        """
        ...

    async def user(self, user_id: str) -> User | None:
        """One user, from memory if possible.

        Raises:
            Unavailable: as `find`.
        """
        ...

    async def users(self, *, after: str = "", limit: int = 100) -> Sequence[User]:
        """Users by id, those after `after`."""
        ...

    async def create_user(self, actor: str, user: User) -> User:
        """Add one.

        Raises:
            Conflict: there is one with this id. InvalidRequest: an id or a value that cannot be.
        """
        ...

    async def change_user(self, actor: str, user_id: str, changes: Mapping[str, Any], *, create: bool = False) -> User:
        """Change fields of `User` (`limits` and `caps` as mappings of theirs, merged); with `create`, add it if new.

        Raises:
            NotFound: there is none. InvalidRequest: a value that cannot be.
        """
        ...

    async def delete_user(self, actor: str, user_id: str) -> None:
        """Delete a user and its keys; what it used stays in the ledger.

        Raises:
            NotFound: there is none.
        """
        ...

    async def keys(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[Key]:
        """Keys by id, of one user or of all."""
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
        """A new key, and its text, which nothing keeps.

        Raises:
            NotFound: there is no such user. InvalidRequest: a value that cannot be.
        """
        ...

    async def change_key(self, actor: str, key_id: str, changes: Mapping[str, Any]) -> Key:
        """Change fields of `Key` (name, admin, disabled, models, limits, expires).

        Raises:
            NotFound: there is none. InvalidRequest: a value that cannot be.
        """
        ...

    async def rotate_key(self, actor: str, key_id: str, *, overlap: float) -> tuple[Key, str]:
        """A new key like this one; the old one expires after `overlap` seconds, if it would not sooner.

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
        """The models kept here, each as a [[models]] table plus `id` and `revision`, with `has_api_key` for its key."""
        ...

    async def put_model(
        self, actor: str, model_id: str, table: Mapping[str, Any], *, create: bool, revision: int | None = None
    ) -> Mapping[str, Any]:
        """Add a model (a [[models]] table), or with `create` false change what `table` names of one.

        `revision` is the one that was changed; None: whichever it is.

        Raises:
            Conflict: there is one already, or somebody else has changed it meanwhile. NotFound: there is none.
            InvalidRequest: a value that cannot be.
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
        """Add a line to the audit, in a transaction of somebody else's change; gives its id."""
        ...

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(kind, id)` when something has changed, here or in another process; ("", "") for anything.

        `kind` is what stands before the dot of the audit's action: "user", "key", "model", "config".
        """
        ...

    async def refresh(self) -> None:
        """Learn now what other processes have changed; else that takes up to a second.

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
        """Set it, in the place of what was there; gives it with its new revision, the audit's id of this change.

        It outlives a restart.

        Args:
            actor: who does.
            name: of what.
            value: a JSON object.
            revision: the one that was changed; None: whichever it is.

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
        """Change what `changes` names, as a JSON merge patch (RFC 7396) does: None takes out. Nobody's is lost.

        Args:
            actor: who does.
            name: of what.
            changes: a JSON object.
            revision: the one that was changed; None: whichever it is.
            check: looks at the whole before it holds, and may raise.

        Raises:
            Conflict: somebody else has changed it meanwhile. Unavailable: the database is away.
        """
        ...

    def override(self, name: str) -> tuple[Mapping[str, Any], int]:
        """What is set of a model (by its public name) or a deployment (by its key), and its revision; ({}, 0) if none.

        The keys are those of `put_override`. Changes are told as ("config", "model:NAME").
        """
        ...

    async def put_override(
        self, actor: str, name: str, changes: Mapping[str, Any], *, revision: int | None = None
    ) -> tuple[Mapping[str, Any], int]:
        """Set something of a model or a deployment, in place of what its table says; the catalog shows it.

        Args:
            actor: who does.
            name: the public name of a model, for all its deployments, or the key of one deployment.
            changes: some of `enabled`, `priority`, `rate_limit` (`requests_per_minute`, `tokens_per_minute`),
                `fallback_models` and `parameters` (`default_temperature`, `max_tokens`); None takes back what was set.
            revision: the one that was changed; None: whichever it is.

        Raises:
            ModelNotFound: there is none. InvalidRequest: a value that cannot be.
            Conflict: somebody else has changed it meanwhile. Unavailable: the database is away.
        """
        ...


DIRECTORY: ServiceKey[Directory] = ServiceKey("directory", provider="database")
