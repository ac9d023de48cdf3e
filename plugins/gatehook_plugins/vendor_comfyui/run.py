"""One run of a workflow, from the queue to its pictures.

Two ways tell that it is over: the socket, at once, and the server's queue and history, asked whenever the socket has
been silent for a while. The queue comes first: a run goes from there to the history in one step, so one that is in
neither is lost. Asked the other way round it could slip by between the two questions.

The run of a job whose process died goes on at its server. The next run of the job takes it over, or its pictures.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from gatehook import Attempt, MalformedJSON, Picture, Retry, UpstreamError, decode, sniff
from gatehook_plugins.vendor_comfyui.failures import failed, gone, rejected
from gatehook_plugins.vendor_comfyui.metadata import without_metadata
from gatehook_plugins.vendor_comfyui.options import Options
from gatehook_plugins.vendor_comfyui.progress import Meter
from gatehook_plugins.vendor_comfyui.server import Server
from gatehook_plugins.vendor_comfyui.workflow import Workflow

__all__ = ["WorkflowRun"]

log = logging.getLogger("gatehook.comfyui")

_PATIENCE: Final = 3
"""How many times in a row the server may fail to say what has become of a run."""


class WorkflowRun:
    """Implements `listener.Run`."""

    def __init__(
        self,
        attempt: Attempt,
        server: Server,
        workflow: Workflow,
        options: Options,
        values: Mapping[str, Any],
        *,
        name: str,
        earlier: Sequence[str],
        part: tuple[int, int],
        begun: Callable[[], None],
    ) -> None:
        """`values` fill the workflow.

        `name` is the run's id at the server, `earlier` are those that it may have had in processes that died; `part` is
        which of how many runs this is; `begun` is told when it runs.
        """
        self._attempt = attempt
        self._server = server
        self._workflow = workflow
        self._options = options
        self._fresh = self._name = name
        self._earlier = earlier
        self._prompt = workflow.filled(values, name[-8:])
        self._begun = begun
        self._may_run = False
        """Whether the run may be at the server, so that it has to be stopped if it is given up."""
        self._over = asyncio.Event()
        self._last_word = 0.0
        self.meter = Meter(self._prompt, workflow.called, attempt.call.progress, part)

    def heard(self, *, over: bool = False, running: bool = False) -> None:
        """See `listener.Run`."""
        self._last_word = time.monotonic()
        if running:
            self._begun()
        if over:
            self._over.set()

    async def pictures(self) -> list[Picture]:
        """Run the workflow, or take over an earlier run of it; gives its pictures.

        Raises:
            GatewayError: it could not be run, or failed. Whatever happens, no run goes on that nobody waits for.
        """
        if self._earlier:
            for name in await self._left():
                with contextlib.suppress(UpstreamError):
                    made = await self._followed(name, self._resumed)
                    log.info("%s: took over its run %s at %s", self._attempt.call.id, name, self._attempt.target.key)
                    return made
        return await self._followed(self._fresh, self._made)

    async def _left(self) -> Sequence[str]:
        """The ids of earlier runs that the server still knows: that wait, run, or have ended."""
        queue = await self._server.queue(time.monotonic())
        return [
            name
            for name in self._earlier
            if queue.position(name) is not None or await self._server.history(name) is not None
        ]

    async def _followed(self, name: str, ended: Callable[[], Awaitable[Mapping[str, Any]]]) -> list[Picture]:
        """Follow a run to its end, which `ended` awaits; gives its pictures."""
        server, runs = self._server, self._server.listener.runs
        self._name, runs[name] = name, self
        self._over.clear()
        self._may_run = True
        try:
            entry = await ended()
            if (error := failed(self._attempt.target, self._workflow, entry)) is not None:
                raise error
            made = [await self._fetched(image) for image in self._images(entry)]
        except BaseException:  # also when cancelled: what nobody waits for must not be computed
            if self._may_run:
                server.stop(name)
            raise
        finally:
            del runs[name]
        server.forget(name)
        return made

    async def _resumed(self) -> Mapping[str, Any]:
        """The history entry of a run that another process began. The server's messages go to that one, so poll."""
        self._over.set()  # perhaps it is: look at once
        return await self._ended()

    async def _made(self) -> Mapping[str, Any]:
        """Put the run into the queue; gives its history entry, once it has ended."""
        self._may_run = False
        await self._submit()
        return await self._ended()

    async def _submit(self) -> None:
        client_id = await self._server.listener.client_id()
        self._may_run = True
        told = await self._server.submit(self._name, self._prompt, client_id)
        self._may_run = told.is_taken
        if told.failure is not None:
            raise told.failure
        # The server accepts a workflow of which only a part is sound, and runs that part.
        if not told.is_taken or _has_faults(told.said):
            raise rejected(self._attempt, self._workflow, told.said)

    async def _ended(self) -> Mapping[str, Any]:
        """Wait for the end of the run; gives its history entry.

        Raises:
            UpstreamError: the run is lost, or the server does not answer.
        """
        since, failures = time.monotonic(), 0
        self._last_word = since
        while True:
            await self._silence()
            try:
                entry = await self._look(since)
            except UpstreamError:
                failures += 1
                if failures >= _PATIENCE:
                    raise
                await asyncio.sleep(self._options.poll)
            else:
                if entry is not None:
                    return entry
                failures = 0

    async def _silence(self) -> None:
        """Wait until the run is said to be over, or nothing was said of it for a while."""
        while not self._over.is_set():
            left = self._last_word + self._options.poll - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._over.wait()

    async def _look(self, since: float) -> Mapping[str, Any] | None:
        """Ask the server what has become of the run: its history entry, or None if it goes on."""
        server, name = self._server, self._name
        if self._over.is_set():
            if (entry := await server.history(name)) is not None:
                return entry
            self._over.clear()  # said before the history was written: look as if nothing had been said
        position = (await server.queue(since)).position(name)
        if position is None:
            if (entry := await server.history(name)) is not None:
                return entry
            raise gone(self._attempt.target)
        if position:
            self.meter.waiting(position)
        self.heard(running=not position)
        return None

    def _images(self, entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The pictures that were saved; if there are none, those that are only shown.

        Raises:
            UpstreamError: there are none of either.
        """
        outputs = entry.get("outputs") or {}
        nodes = self._workflow.outputs or list(outputs)
        images = [image for node in nodes for image in (outputs.get(node) or {}).get("images") or ()]
        for kind in ("output", "temp"):
            if found := [image for image in images if image.get("type") == kind]:
                return found
        raise UpstreamError(
            f"{self._attempt.target.vendor}: the workflow has made no picture", code="upstream_empty", retry=Retry.NEXT
        )

    async def _fetched(self, image: Mapping[str, Any]) -> Picture:
        data = await self._server.view(image)
        if not self._options.keep_metadata:
            data = without_metadata(data)
        return Picture(data, sniff(data[:16]) or "application/octet-stream")


def _has_faults(said: bytes) -> bool:
    """Whether the server took a workflow without some of its nodes; yes, too, if its answer cannot be read."""
    try:
        return bool(decode(said)["node_errors"])
    except (MalformedJSON, KeyError, TypeError):
        return True
