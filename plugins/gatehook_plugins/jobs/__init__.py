"""Long work as jobs: taken at once, run later, and neither lost nor ended twice when a process dies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from gatehook import (
    DATABASE,
    DIRECTORY,
    FILES,
    JOBS,
    LEDGER,
    METRICS,
    QUOTAS,
    Call,
    JobQueue,
    Route,
    ServiceKey,
    Target,
    hookimpl,
)
from gatehook_plugins.jobs.bell import Bell
from gatehook_plugins.jobs.dispatcher import Dispatcher
from gatehook_plugins.jobs.feed import Feed
from gatehook_plugins.jobs.intake import Intake
from gatehook_plugins.jobs.reading import Reader
from gatehook_plugins.jobs.results import Results
from gatehook_plugins.jobs.routes import JobsApi
from gatehook_plugins.jobs.runner import Runner
from gatehook_plugins.jobs.settings import JobsSettings
from gatehook_plugins.jobs.signing import key_of
from gatehook_plugins.jobs.store import Limits, Store
from gatehook_plugins.jobs.submission import Submission
from gatehook_plugins.jobs.upkeep import Upkeep
from gatehook_plugins.jobs.webhooks import Courier

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["Jobs"]


class Jobs:
    """Queues calls that ask for it (`"async": true`), runs them, and tells under /v1/jobs what became of them."""

    Settings = JobsSettings

    requires = (DATABASE,)

    def __init__(self, settings: JobsSettings) -> None:
        self._settings = settings
        self._parts: _Parts | None = None

    @hookimpl
    def register_services(self, gateway: Gateway) -> Iterable[tuple[ServiceKey[JobQueue], JobQueue]]:
        """The queue."""
        return [(JOBS, self)]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """/v1/jobs."""
        parts = self._of(gateway)
        return [
            Route("GET", "/v1/jobs", parts.api.list),
            Route("GET", "/v1/jobs/{id}", parts.api.one),
            Route("DELETE", "/v1/jobs/{id}", parts.api.delete),
            Route("GET", "/v1/jobs/{id}/events", parts.feed.follow),
        ]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The tables, and the tasks that run jobs and see to them."""
        return [self._of(gateway).lifespan]

    async def submit(self, call: Call, targets: Sequence[Target]) -> str:
        """See `JobQueue`."""
        return await self._bound.submission.submit(call, targets)

    def counts(self) -> Mapping[str, int]:
        """See `JobQueue`."""
        return self._bound.upkeep.counts

    @property
    def _bound(self) -> _Parts:
        assert self._parts is not None, "register_routes has not run"  # noqa: S101  # it runs before anything serves
        return self._parts

    def _of(self, gateway: Gateway) -> _Parts:
        if self._parts is None:
            self._parts = _Parts(gateway, self._settings)
        return self._parts


class _Parts:
    """The parts of the queue, put together on the services that there are."""

    def __init__(self, gateway: Gateway, settings: JobsSettings) -> None:
        services, server = gateway.services, gateway.settings.server
        database, quotas, bell = services[DATABASE], services.get(QUOTAS), Bell()

        def is_open() -> bool:
            return gateway.serving and not gateway.draining and not gateway.retiring

        store = Store(
            database,
            quotas,
            Limits(settings.per_user, {name.lower(): most for name, most in settings.per_vendor.items()}),
        )
        reader = Reader(database)
        results = Results(services.get(FILES), settings.max_inline, settings.max_result, settings.retention)
        self._database = database
        secret = settings.webhook_secret.get_secret_value()
        courier = Courier(database, gateway.egress, key_of(secret), settings.webhook_attempts) if secret else None
        self._courier = courier
        self._dispatcher = Dispatcher(
            store,
            Runner(gateway, services.get(DIRECTORY), settings.max_attempts, settings.backoff, settings.retention),
            results,
            bell,
            services.get(LEDGER) if quotas is not None else None,
            settings,
            is_open,
            server.shutdown_grace,
            (lambda: None) if courier is None else courier.wake,
        )
        self.upkeep = Upkeep(
            store, reader, results, self._dispatcher, bell, settings, gateway.tidy, counting=METRICS in services
        )
        intake = Intake(database, quotas, settings.max_queued)
        self.submission = Submission(intake, gateway.egress, settings, self._dispatcher.wake)
        self.api = JobsApi(store, reader, results, self._dispatcher, bell, gateway.tidy)
        self.feed = Feed(
            reader,
            bell,
            poll=settings.poll,
            heartbeat=server.heartbeat or float("inf"),
            is_open=is_open,
        )

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Make the tables, and work while it lasts.

        Raises:
            StartupError: the tables cannot be brought up to date.
        """
        await self._database.migrate("jobs", "gatehook_plugins.jobs.migrations")
        async with AsyncExitStack() as stack:
            if self._courier is not None:
                await stack.enter_async_context(self._courier.lifespan())
            await stack.enter_async_context(self._dispatcher.lifespan())
            await stack.enter_async_context(self.upkeep.lifespan())
            yield


_implements: type[JobQueue] = Jobs
