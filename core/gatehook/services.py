"""What one plugin offers another without either importing the other: typed keys and the interfaces behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast

from gatehook.accounts import Change, Key, Limits, ModelUsage, Performance, UsageRow, User
from gatehook.errors import StartupError
from gatehook.groups import Group
from gatehook.model import Target, Vitality

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = [
    "BALANCING",
    "CATALOG",
    "DATABASE",
    "DIRECTORY",
    "HEALTH",
    "LEDGER",
    "Balancing",
    "Catalog",
    "Database",
    "DeploymentHealth",
    "Directory",
    "Ledger",
    "Posting",
    "ServiceKey",
    "Services",
]

T = TypeVar("T")


@dataclass(frozen=True)  # no slots: with them `ServiceKey[Thing](…)` fails, where typing notes what it was made from
class ServiceKey(Generic[T]):
    """Names a service and carries its type. `provider` is the plugin that usually offers it, for error messages."""

    name: str
    provider: str


class Services:
    """The services of one gateway. Providing happens at start-up only; a second provider is a fault."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[object, str]] = {}

    def provide(self, key: ServiceKey[T], service: T, plugin: str) -> None:
        """Offer `service` under `key`.

        Raises:
            StartupError: another plugin offers it already.
        """
        if key.name in self._offers:
            raise StartupError(
                f"service {key.name!r} is offered by both {self._offers[key.name][1]!r} and {plugin!r}; disable one"
            )
        self._offers[key.name] = (service, plugin)

    def __getitem__(self, key: ServiceKey[T]) -> T:
        """The service.

        Raises:
            StartupError: nobody offers it; the message names the plugin to enable.
        """
        if key.name not in self._offers:
            raise StartupError(f"service {key.name!r} is not offered by any plugin; enable [plugins.{key.provider}]")
        return cast("T", self._offers[key.name][0])

    def get(self, key: ServiceKey[T]) -> T | None:
        """The service, None if nobody offers it."""
        offer = self._offers.get(key.name)
        return None if offer is None else cast("T", offer[0])

    def __contains__(self, key: ServiceKey[Any]) -> bool:
        return key.name in self._offers


class Catalog(Protocol):
    """All deployments, grouped by the public names clients ask for."""

    def group(self, name: str) -> Group:
        """The deployments that answer for one name (a model's, an alias, one that a wildcard serves), () if none do."""
        ...

    def groups(self) -> Mapping[str, Group]:
        """All models, in the order of the settings, wildcards ("openai/*") among them; then all aliases."""
        ...

    def canonical(self, name: str) -> str:
        """The name of the model, or the wildcard, that answers for `name`; `name` itself if nobody does.

        What is counted by model is counted by this: aliases are the same model, and clients write what wildcards serve.
        """
        ...

    def feed(self, source: str, targets: Sequence[Target]) -> None:
        """Replace everything that `source` (a plugin's name) has added to the deployments of the settings."""
        ...

    def amend(self, source: str, amended: Callable[[Target], Target]) -> None:
        """Have every deployment pass through `amended`, in place of the function that `source` gave before."""
        ...

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a group has changed."""
        ...


class Balancing(Protocol):
    """How calls are shared among the deployments of a model."""

    @property
    def strategies(self) -> Sequence[str]:
        """The names of those there are."""
        ...

    @property
    def strategy(self) -> str:
        """The one that holds now."""
        ...


class DeploymentHealth(Protocol):
    """Which deployments answer, as far as it is known to all workers, and with Redis to all nodes."""

    @property
    def failure_threshold(self) -> int:
        """Failures in a row after which a deployment is given a rest; as it holds now."""
        ...

    @property
    def recovery_threshold(self) -> int:
        """Successes in a row after which it is up again; as it holds now."""
        ...

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks of a deployment that nobody asks for, 0 for none; as it holds now."""
        ...

    def of(self, target: Target) -> Vitality:
        """How one deployment does. Costs no I/O."""
        ...


class Database(Protocol):
    """The database of the settings, SQLite or PostgreSQL, through SQLAlchemy."""

    @property
    def dialect(self) -> Literal["sqlite", "postgresql"]:
        """Which of the two it is, where that matters (upserts)."""
        ...

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Open it, and have it closed; for commands, as around serving its plugin does so. May be nested."""
        ...

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that only reads, and sees one state of the data.

        Raises:
            Unavailable: the database cannot be reached, or is locked for too long.
        """
        ...

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction: committed at the end, or, if that raises, rolled back. On SQLite there is one at a time.

        Raises:
            Unavailable: the database cannot be reached, is locked for too long, or its disk is full.
        """
        ...

    async def migrate(self, name: str, package: str) -> None:
        """Bring the tables of plugin `name` up to date, by the alembic revisions in `package`.versions.

        Each plugin has a history of its own. Processes that start together do it one after another.

        Raises:
            StartupError: the tables are newer than the revisions, or a revision failed.
        """
        ...


class Directory(Protocol):
    """Users and their keys. What it answers while serving comes from memory and is at most a second old.

    Every change names its `actor` and leaves a line in the audit, in the same transaction.
    """

    def recall(self, token: str) -> tuple[User, Key] | None:
        """The same as `find`, if it is in memory; None if it is not, or nobody's."""
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


class Posting(Protocol):
    """Something that books what the ledger writes, in the same transaction."""

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Book these rows; each comes exactly once in a transaction that is committed."""
        ...

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """The transaction is committed."""
        ...

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        """All that process `owner`, which has ended or died, ever wrote is booked: what it still held is free."""
        ...


class Ledger(Protocol):
    """One row per request, written in groups; what is not yet in the database is in a journal on disk."""

    @property
    def owner(self) -> str:
        """This process, among all that write to the same database: as long as it runs, a random name."""
        ...

    def book(self, posting: Posting) -> None:
        """Have every row booked there too. Before the ledger's lifespan begins."""
        ...

    async def flush(self) -> None:
        """Wait until every request that has ended is in the database.

        Raises:
            Unavailable: the database cannot be written to now; nothing is lost.
        """
        ...

    async def correct(
        self, actor: str, user_id: str, *, model: str = "", tokens: int = 0, cost: int = 0, reason: str
    ) -> UsageRow:
        """Add or (negative) take back usage by hand; audited.

        Raises:
            InvalidRequest: nothing to correct, or absurd amounts. Unavailable: the database is away.
        """
        ...

    async def usage(
        self, start: int, end: int, *, user_id: str | None = None, model: str | None = None
    ) -> Sequence[ModelUsage]:
        """What was used of each model from `start` until before `end` (epoch ms); flushes first."""
        ...

    async def performance(
        self, start: int, end: int, *, user_id: str | None = None, model: str | None = None
    ) -> Performance:
        """How requests went from `start` until before `end` (epoch ms); flushes first."""
        ...

    async def rows(
        self, *, user_id: str | None = None, model: str | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[UsageRow]:
        """Single rows, the newest first, those that ended before `before` (epoch ms)."""
        ...


BALANCING: ServiceKey[Balancing] = ServiceKey("balancing", provider="route_models")
CATALOG: ServiceKey[Catalog] = ServiceKey("catalog", provider="kernel")
DATABASE: ServiceKey[Database] = ServiceKey("database", provider="database")
DIRECTORY: ServiceKey[Directory] = ServiceKey("directory", provider="database")
HEALTH: ServiceKey[DeploymentHealth] = ServiceKey("health", provider="cooldown")
LEDGER: ServiceKey[Ledger] = ServiceKey("ledger", provider="ledger")
