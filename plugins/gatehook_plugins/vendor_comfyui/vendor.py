"""The vendor "comfyui": a model is a workflow, and every ComfyUI server that runs it a deployment."""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from gatehook import (
    Attempt,
    Busy,
    Catalog,
    Chunk,
    Completion,
    Egress,
    FileStore,
    Inspector,
    Misconfigured,
    Operation,
    Parameter,
    Picture,
    Prober,
    Progress,
    Salvage,
    StreamBuilder,
    Target,
    Tidier,
    UpstreamError,
    Usage,
    Vendor,
    completion,
    encode,
    picture_url,
    pictures_answer,
    read_options,
    wants_urls,
)
from gatehook_plugins.vendor_comfyui.asked import read_chat, read_images
from gatehook_plugins.vendor_comfyui.drafts import Draft, draft_of, finished, made_so_far
from gatehook_plugins.vendor_comfyui.inspection import server_faults
from gatehook_plugins.vendor_comfyui.options import Options
from gatehook_plugins.vendor_comfyui.run import WorkflowRun
from gatehook_plugins.vendor_comfyui.server import Server
from gatehook_plugins.vendor_comfyui.traces import Trace, trace_of
from gatehook_plugins.vendor_comfyui.workflow import Workflow, WorkflowError, load

__all__ = ["ComfyVendor", "Deployment"]

_SIGN_OF_LIFE: Final = 1.0
"""Seconds between two empty batches while a stream waits for its picture."""
_PATIENCE: Final = 5.0
"""Seconds that runs get to be stopped when the gateway stops."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment with its options and its workflow, both read, and its server."""

    target: Target
    options: Options = field(repr=False)
    workflow: Workflow
    server: Server


class ComfyVendor:
    """Implements `gatehook.Vendor`."""

    name = "comfyui"
    operations: frozenset[Operation] = frozenset({"chat", "images"})
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {}
    """None: what a workflow takes, each deployment says for itself."""
    prepares = True
    """A stream begins when its workflow does; until then it waits in the queue."""

    def __init__(self, egress: Egress, catalog: Catalog, files: FileStore | None, folder: Path) -> None:
        """`folder` is where the settings file is, `files` keeps pictures for those who want URLs."""
        self._egress = egress
        self._catalog = catalog
        self._files = files
        self._folder = folder
        self._deployments: dict[str, Deployment] = {}
        self._servers: dict[tuple[str, str], Server] = {}

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Close in the end what was opened on the way, and stop what still runs."""
        try:
            yield
        finally:
            servers = list(self._servers.values())
            self._servers.clear()
            self._deployments.clear()
            await asyncio.gather(*(server.close(_PATIENCE) for server in servers))

    def check(self, target: Target) -> Sequence[str]:
        """Faults of a deployment, as far as they show without its server."""
        try:
            load(read_options(target, Options), self._folder)
        except Misconfigured as error:
            return [error.fault]
        except WorkflowError as error:
            return error.faults
        return [] if target.base_url else ["base_url: say where ComfyUI is, as in 'http://127.0.0.1:8188'"]

    async def inspect(self, target: Target) -> Sequence[str]:
        """Faults of a deployment that its server sees: nodes and checkpoints that it does not have, other bounds."""
        known = await self.deployment(target)
        return await server_faults(known.workflow, known.server)

    async def probe(self, target: Target) -> None:
        """Ask for the length of the queue, only to see whether the server answers."""
        await (await self.deployment(target)).server.remaining()

    def waiting(self, target: Target) -> int:
        """Runs at its server, of all its clients, as the socket told last; see `gatehook.Busy`."""
        known = self._deployments.get(target.key)
        return (known.server.listener.remaining or 0) if known is not None else 0

    async def complete(self, attempt: Attempt) -> Completion:
        """Make pictures: they are the answer, or, in a chat, shown in a message."""
        if attempt.call.operation == "images":
            wants_urls(attempt.call, self._files)
        return await self._answer(attempt, await self._draw(attempt, _nothing))

    async def _answer(self, attempt: Attempt, pictures: Sequence[Picture]) -> Completion:
        if attempt.call.operation == "images":
            return await pictures_answer(attempt.call, pictures, self._files)
        message = {"role": "assistant", "refusal": None, **await self._shown(attempt, pictures)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return completion(attempt.call, [choice], Usage(images=len(pictures)))

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Sequence[Chunk], None]:
        """The same answer in one piece, when it is there; the stream begins when the workflow does."""
        begun, builder = asyncio.Event(), StreamBuilder(attempt.call)
        drawing = asyncio.create_task(self._draw(attempt, begun.set))
        drawing.add_done_callback(lambda _: begun.set())
        try:
            await begun.wait()
            if drawing.done():
                drawing.result()  # it may have failed, and another deployment may do better
            yield []
            opening = builder.open()
            opening.content = True  # from here on it is this answer, or none
            opening.usage = Usage()  # a client that leaves now pays nothing
            yield [opening]
            while not drawing.done():
                await asyncio.wait([drawing], timeout=_SIGN_OF_LIFE)
                yield []
            if drawing.exception() is not None and (made := made_so_far(attempt)):
                yield [builder.delta(await self._shown(attempt, made)), builder.usage(Usage(images=len(made)))]
            pictures = drawing.result()
            shown = builder.delta(await self._shown(attempt, pictures))
            yield [shown, builder.finish("stop"), builder.usage(Usage(images=len(pictures)))]
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])

    async def deployment(self, target: Target) -> Deployment:
        """A deployment, read anew if it has changed under its key.

        Raises:
            Misconfigured: its options, or its workflow, are wrong.
        """
        known = self._deployments.get(target.key)
        if known is not None and known.target is target:
            return known
        options = read_options(target, Options)
        try:
            workflow = await asyncio.to_thread(load, options, self._folder)
        except WorkflowError as error:
            raise Misconfigured(str(error), model=target.name) from None
        made = self._deployments[target.key] = Deployment(target, options, workflow, self._server(target, options))
        return made

    def _server(self, target: Target, options: Options) -> Server:
        """The server of this deployment, which all with the same address and headers share."""
        headers = dict(options.headers)
        if secret := target.secret():
            headers["Authorization"] = f"Bearer {secret}"
        place = target.base_url, hashlib.sha256(encode(sorted(headers.items()))).hexdigest()  # no secret is kept about
        if place not in self._servers:
            self._servers[place] = Server(self._egress, target, headers)
        return self._servers[place]

    async def _draw(self, attempt: Attempt, begun: Callable[[], None]) -> list[Picture]:
        """Run the workflow as often as is asked for, one after another: others wait at the server too.

        What is made stays made when a later run fails: another try here goes on from there.
        """
        known = await self.deployment(attempt.target)
        workflow = known.workflow
        draft = draft_of(attempt, (read_chat if attempt.call.operation == "chat" else read_images)(attempt, workflow))
        asked = draft.asked
        trace = trace_of(attempt.call)
        if trace.is_again and not trace.is_tidy:
            await self._tidy(attempt, trace, asked.times)
        try:
            for number in range(draft.runs, asked.times):
                run = WorkflowRun(
                    attempt,
                    known.server,
                    workflow,
                    known.options,
                    asked.round(number, workflow),
                    name=trace.fresh(attempt.target, number),
                    earlier=trace.earlier(attempt.target, number),
                    part=(number, asked.times),
                    begun=begun,
                )
                draft.add(await run.pictures())
                self._offer(attempt, draft)
        finally:
            if trace.is_again:  # stop what could have been taken over, and was not
                known.server.clear(trace.is_left)
        if attempt.call.progress is not None:
            attempt.call.progress(Progress(1.0, "done"))
        finished(attempt)
        return draft.pictures

    def _offer(self, attempt: Attempt, draft: Draft) -> None:
        """Offer what is made so far as a salvage; not of a strict deployment, nor of a job, which is tried again."""
        call, pictures = attempt.call, draft.pictures
        call.salvage = None
        if 0 < draft.runs < draft.asked.times and not (call.stream or call.reservation or attempt.target.strict):
            dropped = (*attempt.dropped, "n")
            call.salvage = Salvage(len(pictures), partial(self._answer, attempt, pictures), dropped)

    async def _tidy(self, attempt: Attempt, trace: Trace, times: int) -> None:
        """Stop what earlier runs of a job have left at servers, but for what this run may take over."""
        trace.is_tidy = True
        here = attempt.target
        ours = frozenset(name for number in range(times) for name in trace.earlier(here, number))

        def is_left(name: str) -> bool:
            return trace.is_left(name) and name not in ours

        await self._clear(is_left)

    async def tidy(self, name: str) -> None:
        """Stop all runs of a job; see `gatehook.Tidier`."""
        await self._clear(Trace(name, 0).is_left)

    async def _clear(self, is_left: Callable[[str], bool]) -> None:
        """Stop runs whose ids `is_left` accepts, at all servers."""
        targets = (target for group in self._catalog.groups().values() for target in group)
        for target in {one.base_url: one for one in targets if one.vendor == self.name}.values():
            with contextlib.suppress(UpstreamError):  # its settings are wrong: nothing was ever begun there
                (await self.deployment(target)).server.clear(is_left)

    async def _shown(self, attempt: Attempt, pictures: Sequence[Picture]) -> dict[str, Any]:
        """Pictures as a message shows them: in its text, for all clients, and as a list, for those that know it."""
        urls = [await self._url(attempt, picture) for picture in pictures]
        return {
            "content": "\n\n".join(f"![picture]({url})" for url in urls),
            "images": [{"type": "image_url", "image_url": {"url": url}} for url in urls],
        }

    async def _url(self, attempt: Attempt, picture: Picture) -> str:
        if self._files is None:
            return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
        return await picture_url(attempt.call, picture, self._files)


def _nothing() -> None:
    """Stands for a callback that nobody needs."""


_implements: tuple[type[Vendor], type[Prober], type[Busy], type[Inspector], type[Tidier]] = (ComfyVendor,) * 5
