"""Answers GET /metrics. What it shows is put together at the scrape, in another thread."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from aiohttp import web
from msgspec import Struct

from gatehook import LocalModel, LocalModels, Unavailable, Vitality
from gatehook_plugins.metrics.numbers import Page

__all__ = ["Shown", "serve"]

_SECONDS: Final = 2.0
"""Seconds that the list of local models may take; without it after that: nothing else is held up longer."""


class Shown(Struct):
    """What is to be shown, and where it comes from."""

    pages: Callable[[], Iterable[tuple[Page, bool]]]
    """What each process has counted, and whether that process is alive."""
    process: bool
    """Whether to show what the operating system and Python say of the process, too."""
    feathergate_names: bool
    plugin_times: bool
    by_worker: bool = False
    """Whether there is a page of each worker."""
    deployments: Callable[[], Mapping[str, Vitality]] | None = None
    """How the deployments do."""
    jobs: Callable[[], Mapping[str, int]] | None = None
    """How many jobs there are, by status."""
    local: LocalModels | None = None
    """How the models on this machine do."""
    inference: bool = False
    """Whether to show the metrics of the generation API, too."""


async def serve(shown: Shown, request: web.Request) -> web.Response:
    """Everything, in the format that the Accept header asks for: Prometheus text, or OpenMetrics."""
    openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
    local = None if shown.local is None else await _models(shown.local)
    # Read here, not in the other thread: this one changes it.
    vitalities = None if shown.deployments is None else shown.deployments()
    # Formatting thousands of lines, and reading /proc, would hold up every stream.
    body, content_type = await asyncio.to_thread(_written, shown, local, vitalities, openmetrics=openmetrics)
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _models(local: LocalModels) -> Sequence[LocalModel]:
    """All of them; none where the process that keeps them does not answer."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await local.models()
    except (Unavailable, TimeoutError):
        return ()


def _written(
    shown: Shown, local: Sequence[LocalModel] | None, vitalities: Mapping[str, Vitality] | None, *, openmetrics: bool
) -> tuple[bytes, str]:
    from gatehook_plugins.metrics.families import written  # with prometheus_client: few gateways are ever scraped

    return written(shown, local, vitalities, openmetrics=openmetrics)
