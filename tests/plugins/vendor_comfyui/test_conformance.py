"""The vendor "comfyui" keeps to everything the suite for vendors of pictures asks of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web

from gatehook.testing import Recorded
from gatehook.testing.conformance import Failure, ImageServer, ImageVendorConformance, Job, Plan, half

WORKFLOW: Any = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}},
    "2": {
        "class_type": "Steps",
        "inputs": {"image": ["1", 0], "steps": 4, "preview": True, "seed": 7, "negative": ""},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "made"}},
}
INPUTS = {
    "prompt": "3.filename_prefix",
    "negative_prompt": "2.negative",
    "width": "1.width",
    "height": "1.height",
    "seed": {"node": "2.seed", "min": 0, "max": 1_000_000},
    "steps": {"node": "2.steps", "max": 50},
}
BY_A_PROXY = ("credential", "permission", "rate_limit", "internal", "unavailable", "overloaded")
"""ComfyUI itself knows nothing of these; what stands before it may."""


class ComfyImages(ImageServer):
    """The stand-in of these tests, told what to do by the suite. What ComfyUI says only of runs, it says of jobs."""

    make_comfy: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.comfy = self.make_comfy()
        self.comfy.paint = self._painted
        self.comfy.front = self._front
        self._runs: dict[str, Job] = {}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with self.comfy.serving():
            self.url = self.comfy.url
            yield

    def refuses(self, failure: Failure) -> bool:
        return failure.kind in (*BY_A_PROXY, "invalid")

    def _painted(self, prompt: Mapping[str, Any]) -> bytes:
        size = "{width}x{height}".format(**prompt["1"]["inputs"])
        return self.paint(self._runs[prompt["3"]["inputs"]["filename_prefix"]], size)

    async def _front(self, request: web.Request) -> web.StreamResponse | None:
        """Note who asks what, and do what the server itself would not do."""
        _, _, headers, body = self.comfy.asked[-1]
        self.requests.append(Recorded(request.method, request.path_qs, headers, json.dumps(body).encode()))
        match request.method, request.path.split("/")[1]:
            case "POST", "prompt":
                return await self._submitted(body)
            case "GET", "view" if self.plan.fate == "cut":
                data = self.comfy.files[request.query["type"], request.query["filename"]]
                return await half(request, web.Response(body=data, content_type="image/png"))
            case "GET", "history":
                return await self._told(request.path.rpartition("/")[2])
            case "POST", "interrupt":
                await self.end(self._runs[body["prompt_id"]], "stopped")
            case "POST", "queue":
                for name in {one[1] for one in self.comfy.pending} & set(body["delete"]):
                    await self.end(self._runs[name], "stopped")
        if self.plan.fate == "dead" and self.jobs:
            request.transport.close()  # type: ignore[union-attr]
        return None

    async def _submitted(self, body: Any) -> web.Response | None:
        """A run comes in."""
        prefix = body["prompt"]["3"]["inputs"]["filename_prefix"]
        job = await self.begin(prefix.rpartition("_")[0])
        self._runs[prefix] = self._runs[body["prompt_id"]] = job
        match self.plan:
            case Plan("refused", Failure() as failure):
                return _refused(failure)
            case Plan("nonsense"):
                return web.Response(text="<html>What do you mean?</html>", content_type="text/html")
            case Plan("failed", Failure() as failure):
                self.comfy.fails = ("RuntimeError", failure.message)
            case Plan("held" | "dead"):
                self.comfy.held = True
                self.comfy.go.clear()
            case Plan("slow"):
                await asyncio.sleep(0.3)
        if self.plan.fate == "dead":
            asyncio.get_running_loop().call_later(0.05, asyncio.ensure_future, self.comfy.drop_sockets())
        return None

    async def _told(self, name: str) -> web.Response | None:
        """What came of a run is asked for; it may be nothing."""
        if name not in self.comfy.history:
            return None
        await self.end(self._runs[name])
        if self.plan.fate != "empty":
            return None
        return web.json_response({name: {**self.comfy.history[name], "outputs": {}}})


def _refused(failure: Failure) -> web.Response:
    """By a proxy; or by ComfyUI, as it refuses a value that a client gave."""
    if failure.kind != "invalid":
        return web.Response(text=failure.message, status=failure.status, headers=failure.headers)
    fault = {"type": "value_bigger_than_max", "message": failure.message, "extra_info": {"input_name": "width"}}
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
    return web.json_response({"error": error, "node_errors": {"1": {"errors": [fault]}}}, status=400)


class TestComfyUI(ImageVendorConformance):
    plugin = "vendor_comfyui"
    label = "comfyui"
    shows_in_chats = True
    tells_progress = True
    withheld = "they may hold paths and prompts of others"
    unseen: Mapping[str, str] = {"user": "asks for nothing of a picture"}

    @pytest.fixture(autouse=True)
    def _with_its_server(self, make_comfy: Any, tmp_path: Path) -> None:
        class Server(ComfyImages):
            pass

        Server.make_comfy = staticmethod(make_comfy)
        self.server = Server
        file = tmp_path / "workflow.json"
        file.write_text(json.dumps(WORKFLOW))
        self.options = {"workflow": str(file), "poll": 0.05, "inputs": INPUTS}
