"""An engine without a model: it speaks as the real one does, and fails on demand. The tests of what starts it run it.

What is asked for decides: "slow" streams until it is told to stop, "die" kills the process in the middle. The model's
file decides about loading: what is in it after its header, as in "hang", "exit" or "wait PATH".
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from aiohttp import web


def say(**said: Any) -> None:
    print(json.dumps(said), flush=True)


class Engine:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.active = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked = body["messages"][-1]["content"]
        if asked.startswith("refuse"):
            _, status, code = asked.split()
            error = {"message": "no", "type": "invalid_request_error", "param": "messages", "code": code}
            return web.json_response({"error": error}, status=int(status), headers={"Retry-After": "7"})
        said = f"{self.options['name']} {self.options['path']} {os.getpid()} {asked}"
        if not body.get("stream"):
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            return web.json_response({"id": "c", "model": body["model"], "choices": [choice], "usage": usage})
        return await self.stream(request, body, asked, said)

    async def stream(self, request: web.Request, body: dict[str, Any], asked: str, said: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(choices: list[dict[str, Any]], **more: Any) -> None:
            event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            await response.write(b"data: %b\n\n" % json.dumps(event | {"choices": choices} | more).encode())

        await send([{"index": 0, "delta": {"role": "assistant", "content": said}, "finish_reason": None}])
        if asked == "die":
            print("GGML_ASSERT(logits != nullptr) failed", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGABRT)
        while asked == "slow":
            await asyncio.sleep(0.01)
            await send([{"index": 0, "delta": {"content": "."}, "finish_reason": None}])
        for _ in range(3):
            await asyncio.sleep(0.002)
            await send([{"index": 0, "delta": {"content": "."}, "finish_reason": None}])
        if asked == "fault":
            error = {"message": "out of cells", "type": "server_error", "param": None, "code": "engine_failed"}
            await response.write(b"data: %b\n\n" % json.dumps({"error": error}).encode())
            return response
        await send([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if (body.get("stream_options") or {}).get("include_usage"):
            await send([], usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})
        await response.write(b"data: [DONE]\n\n")
        return response


async def load(options: dict[str, Any], data: bytes) -> None:
    if data[:4] != b"GGUF":
        say(failed={"code": "bad_file", "message": "is no GGUF file"})
        sys.exit(1)
    wish = data.rpartition(b"\0WISH ")[2].decode() if b"\0WISH " in data else ""
    say(progress=0.5)
    if wish == "exit":
        print("tensor data is not within the file bounds", file=sys.stderr, flush=True)
        os._exit(3)
    if wish == "blame":
        say(failed={"code": "load_failed", "message": f"{options['path']}: no such tensor ('/usr/lib/x/llama.so')"})
        sys.exit(1)
    if wish == "hang":
        await asyncio.Event().wait()
    if wish.startswith("wait"):
        while not os.path.exists(wish.split()[1]):  # noqa: ASYNC110, ASYNC240, PTH110
            await asyncio.sleep(0.01)


async def main() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    options = json.loads(sys.stdin.buffer.readline())
    with open(options["path"], "rb") as file:  # noqa: ASYNC230, PTH123
        data = file.read()
    loop.add_reader(0, lambda: None if os.read(0, 1024) else ended.set())
    loading = asyncio.create_task(load(options, data))
    done, _ = await asyncio.wait([loading, asyncio.create_task(ended.wait())], return_when=asyncio.FIRST_COMPLETED)
    if loading not in done:
        return
    loading.result()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", Engine(options).chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, options["socket"]).start()
    say(ready={"context": options["context"], "slots": options["slots"], "memory": 1})
    await ended.wait()
    os._exit(0)


asyncio.run(main())
