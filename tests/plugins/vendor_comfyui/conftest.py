"""A server that behaves as ComfyUI was seen to behave, its races included, and a gateway in front of it.

What it answers was observed on ComfyUI 0.12.1. It has one worker, a cache, sockets by client id, and these nodes:
EmptyImage, ImageInvert, SaveImage, PreviewImage, Steps (counts its steps, with previews), Blocks (cannot be
interrupted) and Fails.
"""

import asyncio
import contextlib
import hashlib
import json
import struct
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSCloseCode, web

from gatehook import Gateway
from gatehook.testing import serving

KINDS: Mapping[str, tuple[str, ...]] = {
    "EmptyImage": ("width", "height", "color"),
    "ImageInvert": ("image",),
    "SaveImage": ("images", "filename_prefix"),
    "PreviewImage": ("images",),
    "Steps": ("image", "steps", "preview", "seed"),
    "Blocks": ("image",),
    "Fails": ("image", "kind", "message"),
}
OUTPUTS = ("SaveImage", "PreviewImage")
BODY: web.RequestKey[Any] = web.RequestKey("BODY", object)
PREVIEW = b"\xff\xd8\xff\xe0preview"


class _Stopped(Exception):  # ComfyUI's own InterruptProcessingException
    pass


class _Failed(Exception):
    def __init__(self, kind: str, message: str) -> None:
        self.kind, self.message = kind, message


class FakeComfy:
    """Enter `serving()`; the attributes are what a test may bend, and what it may look at."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str, Mapping[str, str], Any]] = []
        """All requests: method, path, headers, JSON."""
        self.ran: list[str] = []
        """Runs that came to their end."""
        self.steps = 0
        """Steps that were computed, in all runs."""
        self.reached = asyncio.Event()
        """Set when a run comes to where it is held."""
        self.held = False
        """Whether runs stop after their first step until `go` is set."""
        self.go = asyncio.Event()
        self.lost_interrupts = 0
        """So many interruptions come too early and are forgotten."""
        self.late_history = False
        """Whether the history is written only after execution_success was told, and asked for once."""
        self.is_deaf = False
        """Whether sockets are refused."""
        self.is_mute = False
        """Whether sockets say nothing of runs."""
        self.loses_files = False
        self.fails: tuple[str, str] | None = None
        """Of which kind and with which words every run fails after its first node."""
        self.paint: Callable[[Mapping[str, Any]], bytes] = lambda prompt: picture(json.dumps(prompt))
        """What the picture of a run looks like."""
        self.front: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        """What stands before it and may answer in its place, or cut the line; None lets a request through."""
        self.instead: tuple[bytes, str] | None = None
        """Body and type of what comes in place of every file."""
        self.cut_files = 0
        """So many files are cut off in their middle as they are fetched."""
        self.frame = 0
        """Bytes of a preview that is larger than all others; 0 for none."""
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.flagged: set[str] = set()
        self.pending: list[tuple[float, str, Any, Any, list[str]]] = []
        self.running: tuple[float, str, Any, Any, list[str]] | None = None
        self.history: dict[str, Any] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self._cache: dict[str, Any] = {}
        self._number = 0
        self._node = ""
        self._interrupted = False
        self._late: dict[str, Any] = {}
        self._wake = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeComfy"]:
        app = web.Application(middlewares=[self._noted])
        app.router.add_get("/ws", self._socket)
        app.router.add_post("/prompt", self._submit)
        app.router.add_get("/prompt", self._remaining)
        app.router.add_get("/queue", self._queue)
        app.router.add_post("/queue", self._change_queue)
        app.router.add_post("/interrupt", self._interrupt)
        app.router.add_get("/history/{name}", self._one_history)
        app.router.add_post("/history", self._forget)
        app.router.add_get("/view", self._view)
        app.router.add_get("/object_info/{kind}", self._info)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        worker = asyncio.create_task(self._work())
        try:
            yield self
        finally:
            worker.cancel()
            await asyncio.wait([worker])
            await self.drop_sockets()
            await runner.cleanup()

    async def drop_sockets(self) -> None:
        """Cut every socket."""
        for socket in list(self.sockets.values()):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def restart(self) -> None:
        """Forget what a restart forgets, in the middle of whatever runs; files stay."""
        self.pending.clear()
        self.running, self._interrupted = None, True
        self.history.clear()
        self._cache.clear()
        await self.drop_sockets()

    # --- HTTP ---------------------------------------------------------------------------------------------------

    @web.middleware
    async def _noted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if "Origin" in request.headers:
            return web.Response(status=403)
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.method, request.path, dict(request.headers), body))
        request[BODY] = body
        if self.front is not None and (instead := await self.front(request)) is not None:
            return instead
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _submit(self, request: web.Request) -> web.Response:
        body = request[BODY]
        prompt, name = body["prompt"], str(body["prompt_id"])
        for node, one in prompt.items():
            if one["class_type"] not in KINDS:
                message = f"Node 'ID #{node}' not found. The custom node may not be installed."
                error = {"type": "missing_node_type", "message": message, "details": f"Node ID '#{node}'"}
                return web.json_response({"error": error, "node_errors": {}}, status=400)
        outputs = [node for node, one in prompt.items() if one["class_type"] in OUTPUTS]
        faults = self._faults(prompt)
        if faults and len(faults) >= len(outputs):
            error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            return web.json_response({"error": error, "node_errors": faults}, status=400)
        self._number += 1
        extra = {"client_id": body["client_id"]} if body.get("client_id") else {}
        self.pending.insert(0, (self._number, name, prompt, extra, outputs))  # a heap: in no order
        self._wake.set()
        await self._status()
        return web.json_response({"prompt_id": name, "number": self._number, "node_errors": faults})

    def _faults(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        faults = {}
        for node, one in prompt.items():
            for field, value in one["inputs"].items():
                if field in ("width", "height") and isinstance(value, int) and value > 16384:
                    error = {
                        "type": "value_bigger_than_max",
                        "message": f"Value {value} bigger than max of 16384",
                        "details": field,
                        "extra_info": {"input_name": field, "received_value": value},
                    }
                    faults[node] = {"errors": [error], "dependent_outputs": [], "class_type": one["class_type"]}
        return faults

    async def _remaining(self, request: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": self.remaining}})

    async def _queue(self, request: web.Request) -> web.Response:
        running = [self.running] if self.running else []
        return web.json_response({"queue_running": running, "queue_pending": self.pending})

    async def _change_queue(self, request: web.Request) -> web.Response:
        gone = request[BODY]["delete"]
        self.pending = [item for item in self.pending if item[1] not in gone]
        await self._status()
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        asked = (request[BODY] or {}).get("prompt_id")
        if self.lost_interrupts:
            self.lost_interrupts -= 1
        elif self.running and asked in (None, self.running[1]):
            self._interrupted = True
            self.go.set()
        return web.Response()

    async def _one_history(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name in self._late:
            self.history[name] = self._late.pop(name)
            if self.running and self.running[1] == name:
                self.running = None
            return web.json_response({})
        return web.json_response({name: self.history[name]} if name in self.history else {})

    async def _forget(self, request: web.Request) -> web.Response:
        for name in request[BODY]["delete"]:
            self.history.pop(name, None)
        return web.Response()

    async def _view(self, request: web.Request) -> web.StreamResponse:
        data = self.files.get((request.query["type"], request.query["filename"]))
        if self.instead is not None:
            return web.Response(body=self.instead[0], content_type=self.instead[1])
        if data is not None and self.cut_files:
            self.cut_files -= 1
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(status=404) if data is None else web.Response(body=data, content_type="image/png")

    async def _info(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        known = {"input": {"required": {field: ["INT", {}] for field in KINDS[kind]}}} if kind in KINDS else None
        return web.json_response({kind: known} if known else {})

    # --- sockets ------------------------------------------------------------------------------------------------

    @property
    def remaining(self) -> int:
        return len(self.pending) + (self.running is not None)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if self.is_deaf:
            return web.Response(status=403)
        name = request.query.get("clientId") or uuid.uuid4().hex
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[name] = socket
        try:
            status = {"status": {"exec_info": {"queue_remaining": self.remaining}}, "sid": name}
            await socket.send_json({"type": "status", "data": status})
            if self.running and self.running[3].get("client_id") == name:
                await socket.send_json({"type": "executing", "data": {"node": self._node}})
            first = True
            async for message in socket:
                if first and json.loads(message.data)["data"].get("supports_preview_metadata"):
                    self.flagged.add(name)
                first = False
        finally:
            self.sockets.pop(name, None)  # also where a newer socket has the same id
        return socket

    async def _status(self) -> None:
        data = {"status": {"exec_info": {"queue_remaining": self.remaining}}}
        for socket in list(self.sockets.values()):
            with contextlib.suppress(ConnectionError):
                await socket.send_json({"type": "status", "data": data})

    async def _tell(self, kind: str, item: Any, **data: Any) -> None:
        name = item[3].get("client_id")
        if name in self.sockets and not self.is_mute:
            with contextlib.suppress(ConnectionError):
                await self.sockets[name].send_json({"type": kind, "data": {**data, "prompt_id": item[1]}})

    async def _show(self, item: Any, picture: bytes) -> None:
        name = item[3].get("client_id")
        if name in self.sockets and not self.is_mute:
            if name in self.flagged:
                about = json.dumps({"node_id": self._node, "prompt_id": item[1], "image_type": "image/jpeg"}).encode()
                frame = struct.pack(">II", 4, len(about)) + about + picture
            else:
                frame = struct.pack(">II", 1, 1) + picture
            with contextlib.suppress(ConnectionError):
                await self.sockets[name].send_bytes(frame)

    # --- the one worker -----------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            while not self.pending:
                self._wake.clear()
                await self._wake.wait()
            self.pending.sort()
            item = self.running = self.pending.pop(0)
            self._interrupted = False  # whatever was asked before is forgotten
            outputs: dict[str, Any] = {}
            messages: list[Any] = [["execution_start", {"prompt_id": item[1]}]]
            try:
                await self._tell("execution_start", item)
                await self._run(item, outputs)
                status = {"status_str": "success", "completed": True}
                ending: tuple[str, dict[str, Any]] = ("execution_success", {})
            except _Stopped:
                status = {"status_str": "error", "completed": False}
                ending = ("execution_interrupted", {"node_id": self._node})
            except _Failed as error:
                status = {"status_str": "error", "completed": False}
                words = {"exception_type": error.kind, "exception_message": error.message, "traceback": ["/srv/x.py"]}
                ending = ("execution_error", {"node_id": self._node, **words})
            if self.running is not item:  # restarted meanwhile
                continue
            await self._tell(ending[0], item, **ending[1])
            messages.append([ending[0], {"prompt_id": item[1], **ending[1]}])
            entry = {"prompt": item, "outputs": outputs, "status": {**status, "messages": messages}}
            self.ran.append(item[1])
            if self.late_history:
                self._late[item[1]] = entry
            else:
                self.history[item[1]] = entry
                self.running = None
            await self._status()
            if item[3]:
                await self._tell("executing", item, node=None)

    async def _run(self, item: Any, outputs: dict[str, Any]) -> None:
        prompt = item[2]
        cached = [node for node in prompt if self._key(prompt, node) in self._cache]
        await self._tell("execution_cached", item, nodes=cached)
        for node, one in prompt.items():
            key = self._key(prompt, node)
            if key not in self._cache:
                await self._tell("progress_state", item, nodes={node: {"value": 0, "max": 1, "state": "running"}})
                await self._tell("executing", item, node=node, display_node=node)
                self._node = node
                self._stop_if_asked()
                self._cache[key] = await self._compute(item, one)
            elif not item[3]:
                continue  # without a client id, what was cached is missing from the outputs
            if one["class_type"] in OUTPUTS:
                outputs[node] = {"images": [self._cache[key]]}
                await self._tell("executed", item, node=node, output=outputs[node])

    def _key(self, prompt: Mapping[str, Any], node: str) -> str:
        """The same for the same node after the same nodes."""
        one = prompt[node]
        inputs = {
            field: self._key(prompt, value[0]) if isinstance(value, list) else value
            for field, value in one["inputs"].items()
        }
        return hashlib.sha256(json.dumps([one["class_type"], inputs], sort_keys=True).encode()).hexdigest()

    async def _compute(self, item: Any, one: Mapping[str, Any]) -> Any:
        inputs = one["inputs"]
        if self.fails is not None:
            raise _Failed(*self.fails)
        match one["class_type"]:
            case "Steps":
                await self._count(item, inputs)
            case "Blocks":
                self.reached.set()
                await self.go.wait()
            case "Fails":
                raise _Failed(inputs["kind"], inputs["message"])
            case "SaveImage" | "PreviewImage" as kind:
                place = "output" if kind == "SaveImage" else "temp"
                name = f"{inputs.get('filename_prefix', 'temp')}_{len(self.files):05}_.png"
                if not self.loses_files:
                    self.files[place, name] = self.paint(item[2])
                return {"filename": name, "subfolder": "", "type": place}
        return True

    async def _count(self, item: Any, inputs: Mapping[str, Any]) -> None:
        for step in range(1, inputs["steps"] + 1):
            self.steps += 1
            await self._tell("progress", item, node=self._node, value=step, max=inputs["steps"])
            if inputs["preview"]:
                await self._show(item, PREVIEW + bytes(self.frame))
            if self.held and step == 1:
                self.reached.set()
                await self.go.wait()
            await asyncio.sleep(0)
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._interrupted:
            self._interrupted = False
            raise _Stopped


def picture(prompt: str = "") -> bytes:
    """A picture of one dot, with the prompt in it as ComfyUI writes it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    text = chunk(b"tEXt", b"prompt\0" + prompt.encode()) if prompt else b""
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


@pytest.fixture
async def comfy() -> AsyncIterator[FakeComfy]:
    """A server."""
    async with FakeComfy().serving() as server:
        yield server


@pytest.fixture
async def other_comfy() -> AsyncIterator[FakeComfy]:
    """Another one."""
    async with FakeComfy().serving() as server:
        yield server


@pytest.fixture
def make_comfy() -> type[FakeComfy]:
    """Makes a server that is not serving yet."""
    return FakeComfy


@pytest.fixture
def dot() -> Any:
    """Makes the picture that the server makes."""
    return picture


WORKFLOW: Mapping[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}},
    "2": {
        "class_type": "Steps",
        "inputs": {"image": ["1", 0], "steps": 4, "preview": True, "seed": 7},
        "_meta": {"title": "Sampler"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "made"}},
}
INPUTS = """
prompt = "3.filename_prefix"
width = "1.width"
height = "1.height"
seed = { node = "2.seed", min = 0, max = 1000000 }
steps = { node = "2.steps", max = 50 }
"""


@dataclass
class House:
    """A serving gateway, and a client of it."""

    url: str
    gateway: Gateway
    http: aiohttp.ClientSession

    async def ask(self, path: str = "/v1/images/generations", **body: Any) -> tuple[int, Any]:
        """Ask; the status and the answer."""
        body = {"model": "m", **({"prompt": "a cat"} if "images" in path else {}), **body}
        async with self.http.post(self.url + path, json=body) as answer:
            return answer.status, await answer.json()

    async def chat(self, **body: Any) -> tuple[int, Any]:
        """The same by a chat."""
        return await self.ask("/v1/chat/completions", messages=[{"role": "user", "content": "a cat"}], **body)


Open = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
def house(tmp_path: Path) -> Open:
    """Opens a house in front of these servers."""

    @contextlib.asynccontextmanager
    async def opened(
        *servers: str,
        workflow: Any = WORKFLOW,
        options: str = "",
        inputs: str = INPUTS,
        tables: str = "",
        strategy: str = "weighted",
    ) -> AsyncIterator[House]:
        file = tmp_path / "workflow.json"
        file.write_text(json.dumps(workflow))
        settings = "[plugins.openai_api]\n[plugins.images_api]\n[plugins.vendor_comfyui]\n"
        settings += f'[plugins.route_models]\nstrategy = "{strategy}"\n'
        for server in servers:
            settings += f'[[models]]\nname = "m"\nvendor = "comfyui"\nbase_url = "{server}"\n'
            settings += (
                f'[models.options]\nworkflow = "{file}"\npoll = 0.05\n{options}\n[models.options.inputs]\n{inputs}\n'
            )
        if "[failover]" not in tables:
            settings = f"[failover]\nretries = 0\n{settings}"
        async with serving(settings + tables) as served, aiohttp.ClientSession() as http:
            yield House(served.url, served.gateway, http)

    return opened
