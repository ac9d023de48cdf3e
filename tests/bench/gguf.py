"""Local models: Gatehook, its engine alone, llama_cpp.server, and a bare `Llama`, on one file with as many threads.

    python tests/bench/gguf.py [--threads 2] [--type F16] [--rounds 5] [--streams 1 2 4 8 16] [--no-server]

The file is made here: 74 million random parameters, bound by memory as real models are. Each stream is a chat of its
own with 64 tokens of answer. Rounds alternate, each begun by another contestant, so that a busy neighbour hits all;
told are the medians, and of what each round gives as a ratio, the median and the quartiles. Gatehook is asked over TCP,
its engine on its socket, without the gateway. llama_cpp.server takes part where it is installed (pip install
'llama-cpp-python[server]') and wanted. A bare object answers one after another. Streams are read by threads that wait
in the system: with as many threads of computing as cores, what a client takes is taken from the contestant.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a script: make the package importable
from tests.bench.listener import Address, connected, listen

MAKER = Path(__file__).parents[1] / "models" / "make_gguf.py"
SIZE = "--layers 12 --width 512 --heads 8 --kv-heads 8 --feed 1536 --words 32000 --context 4096"
ENDS = {"2": -100}
"""The token that ends an answer, kept away: all answers have the same length."""
TOKENS = 64
PATH = "/v1/chat/completions"
SETTINGS = """
[server]
port = {port}
[plugins.openai_api]
[plugins.route_models]
[plugins.health]
[plugins.vendor_gguf]
threads = {threads}
slots = {slots}
context = 2048
[[models]]
name = "bench"
vendor = "gguf"
options = {{ path = "{path}" }}
"""


@dataclass
class Figures:
    """Of one round."""

    rate: float
    """Tokens per second of all streams together."""
    first: float
    """Seconds until the first token, the median."""


Contestant = Callable[[int], Awaitable[Figures]]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--type", choices=["F16", "Q8_0"], default=None, help="of the weights; both if not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--no-server", action="store_true", help="leave llama_cpp.server out")
    args = parser.parse_args()
    for kind in [args.type] if args.type else ["F16", "Q8_0"]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bench.gguf"
            make(path, kind)
            print(f"\n{kind}, {path.stat().st_size / 1e6:.0f} MB, {args.threads} threads, {TOKENS} tokens an answer")
            await compare(path, args)


def make(path: Path, kind: str) -> None:
    subprocess.run([sys.executable, MAKER, path, "--type", kind, *SIZE.split()], check=True)


async def compare(path: Path, args: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        slots = max(args.streams)
        gateway = await stack.enter_async_context(our_gateway(path, args.threads, slots))
        engine = await stack.enter_async_context(our_engine(path, args.threads, slots))
        contestants: dict[str, Contestant] = {"Gatehook": gateway, "its engine": engine}
        if args.no_server:
            pass
        elif all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "sse_starlette")):
            contestants["llama_cpp.server"] = await stack.enter_async_context(their_server(path, args.threads, slots))
        else:
            print("llama_cpp.server is not installed: pip install 'llama-cpp-python[server]'")
        contestants["bare Llama"] = bare(path, args.threads)
        for contestant in contestants.values():
            await contestant(1)  # warm
        alone = 0.0
        for streams in args.streams:
            rounds = [await one_round(contestants, streams, nth) for nth in range(args.rounds)]
            alone = alone or median(each["Gatehook"].rate for each in rounds)
            show(streams, rounds, alone)
        pairs = [await gateway.turns() for _ in range(args.rounds)]
        before, after = (median(each) for each in zip(*pairs, strict=True))
        times = f"{after * 1000:.0f} ms to the first token, of the first {before * 1000:.0f} ms"
        print(f"second turn: {times}: x{median(second / first for first, second in pairs):.2f}")


async def one_round(contestants: dict[str, Contestant], streams: int, nth: int) -> dict[str, Figures]:
    """Each in its turn. Threads that computed spin on for a moment: who comes next pays for it, so that changes."""
    names = list(contestants)
    names = names[nth % len(names) :] + names[: nth % len(names)]
    figures = {name: await contestants[name](streams) for name in names}
    return {name: figures[name] for name in contestants}


def show(streams: int, rounds: list[dict[str, Figures]], alone: float) -> None:
    names = list(rounds[0])
    rates = {name: median(each[name].rate for each in rounds) for name in names}
    firsts = {name: median(each[name].first for each in rounds) for name in names}
    print(f"{streams:3} streams: " + "; ".join(f"{n} {rates[n]:5.0f} tok/s {firsts[n] * 1000:5.0f} ms" for n in names))
    ratios = []
    for name in names[1:]:
        rate = spread([each["Gatehook"].rate / each[name].rate for each in rounds])
        first = median(each["Gatehook"].first / each[name].first for each in rounds)
        ratios.append(f"{rate} rate, x{first:.2f} first, of {name}")
    print(f"             {'; '.join(ratios)}; x{rates['Gatehook'] / alone:.2f} of taking turns", flush=True)


def spread(ratios: list[float]) -> str:
    """The median, and between what half of them lie."""
    low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"x{middle:.2f} ({low:.2f} to {high:.2f})"


class Chats:
    """A server with OpenAI's endpoints."""

    def __init__(self, address: Address, threads: ThreadPoolExecutor) -> None:
        self._address = address
        self._threads = threads

    async def __call__(self, streams: int) -> Figures:
        # What is asked begins differently each time: this is not about prefixes.
        asked = [f"{time.perf_counter_ns()} tell me a story about number {nth}" for nth in range(streams)]
        sockets = [connected(self._address) for _ in asked]
        await asyncio.sleep(0.01)  # all are accepted
        began = time.perf_counter()
        told = await asyncio.gather(
            *(self.chat([user(text)], sock=sock) for text, sock in zip(asked, sockets, strict=True))
        )
        seconds = max(last for _, last in told) - began
        return Figures(streams * TOKENS / seconds, median(first - began for first, _ in told))

    async def turns(self) -> tuple[float, float]:
        """Seconds to the first token of a long conversation, and of its next turn."""
        said = [user(f"{time.time_ns()} " + "a long story, " * 60)]
        before = await self._first(said)
        return before, await self._first([*said, {"role": "assistant", "content": "Yes."}, user("Go on.")])

    async def _first(self, messages: list[Any]) -> float:
        sock, began = connected(self._address), time.perf_counter()
        first, _ = await self.chat(messages, 8, sock=sock)
        return first - began

    async def chat(self, messages: list[Any], tokens: int = TOKENS, *, sock: socket.socket) -> tuple[float, float]:
        """One stream; when its first content came, and its end, by `time.perf_counter`."""
        body = {"model": "bench", "messages": messages, "max_tokens": tokens, "temperature": 0.0, "stream": True}
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, listen, sock, PATH, {**body, "logit_bias": ENDS})


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@contextlib.asynccontextmanager
async def our_gateway(path: Path, threads: int, slots: int) -> AsyncIterator[Chats]:
    port, settings = free_port(), path.with_name("settings.toml")
    settings.write_text(SETTINGS.format(port=port, threads=threads, slots=slots, path=path))
    async with running("gatehook", "serve", "--config", str(settings)):
        await answering(f"http://127.0.0.1:{port}/health")
        with ThreadPoolExecutor(slots) as listening:
            yield Chats(("127.0.0.1", port), listening)


@contextlib.asynccontextmanager
async def our_engine(path: Path, threads: int, slots: int) -> AsyncIterator[Chats]:
    place = str(path.with_suffix(".sock"))
    options = {"path": str(path), "socket": place, "name": "bench", "threads": threads, "slots": slots, "context": 2048}
    async with running("gatehook_plugins.vendor_gguf.engine", told=subprocess.PIPE) as engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        engine.stdin.write(json.dumps(options).encode() + b"\n")
        while b"ready" not in (line := await engine.stdout.readline()):
            assert line, "the engine has ended"
        with ThreadPoolExecutor(slots) as listening:
            yield Chats(place, listening)


@contextlib.asynccontextmanager
async def their_server(path: Path, threads: int, streams: int) -> AsyncIterator[Chats]:
    port = free_port()
    options = {
        "model": path, "port": port, "n_ctx": 2048, "n_threads": threads, "n_threads_batch": threads,
        "flash_attn": True, "interrupt_requests": False, "verbose": False,
    }  # fmt: skip
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    async with running("llama_cpp.server", *arguments):
        await answering(f"http://127.0.0.1:{port}/v1/models")
        with ThreadPoolExecutor(streams) as listening:
            yield Chats(("127.0.0.1", port), listening)


@contextlib.asynccontextmanager
async def running(
    module: str, *arguments: str, told: int = subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of Python's, ended whatever happens; `told` is where its output goes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=subprocess.PIPE, stdout=told, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


async def answering(url: str) -> None:
    async with aiohttp.ClientSession() as client:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(url):
                    return
            await asyncio.sleep(0.1)


def bare(path: Path, threads: int) -> Contestant:
    from llama_cpp import Llama

    llama: Any = Llama(
        str(path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False
    )

    def answer(text: str) -> float:
        prompt = llama.tokenize(f"<s><|user|>{text}</s><|assistant|>".encode(), add_bos=False, special=True)
        llama.reset()
        began, first = time.perf_counter(), 0.0
        generated = llama.generate(prompt, temp=0.0)
        for _ in range(TOKENS):
            llama.detokenize([next(generated)])
            first = first or time.perf_counter() - began
        return first

    async def contestant(streams: int) -> Figures:
        began, firsts = time.perf_counter(), []
        for nth in range(streams):
            waited = time.perf_counter() - began
            firsts.append(waited + answer(f"{time.perf_counter_ns()} tell me a story about number {nth}"))
        return Figures(streams * TOKENS / (time.perf_counter() - began), median(firsts))

    return contestant


if __name__ == "__main__":
    asyncio.run(main())
