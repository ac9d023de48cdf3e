"""Load a model, and serve it until standard input ends."""

import asyncio
import contextlib
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from gatehook_plugins.vendor_gguf.engine.cores import allowed
from gatehook_plugins.vendor_gguf.engine.embeddings import Embedder
from gatehook_plugins.vendor_gguf.engine.llama import Context, Library, LoadFailed, Model
from gatehook_plugins.vendor_gguf.engine.pulse import beat
from gatehook_plugins.vendor_gguf.engine.scheduler import Scheduler
from gatehook_plugins.vendor_gguf.engine.server import EmbeddingServer, Endpoints, TextServer, application
from gatehook_plugins.vendor_gguf.engine.templates import PLAIN, ChatTemplate, TemplateFault
from gatehook_plugins.vendor_gguf.engine.writer import Writer
from gatehook_plugins.vendor_gguf.options import LONGEST_DEFAULT_CONTEXT, EngineOptions, option_faults

__all__ = ["main"]


_RANK: Final = 4
"""llama.cpp's number for the pooling of models that rank texts (rerankers)."""
_NO_GPU: Final = "gpu_layers does nothing here: llama.cpp was built without a GPU; README.md tells how to build it"
Tell = Callable[[dict[str, Any]], None]


def main() -> int:
    """Run the engine; gives the exit status, 1 after a failure, which is told on standard output."""
    # What the library or anything else prints goes to standard error: it must not come between the messages.
    told = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def tell(word: dict[str, Any]) -> None:
        told.write(msgspec.json.encode(word) + b"\n")

    try:
        options = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineOptions)
    except msgspec.MsgspecError as error:
        return _refuse(tell, "bad_options", f"the options are not understood: {error}")
    if faults := option_faults(msgspec.structs.asdict(options)):
        return _refuse(tell, "bad_options", "; ".join(faults))
    if options.threads >= allowed():
        # Every core computes. When another process takes one for a moment, a thread that is moved to the core of
        # another would slow both down. The library's OpenMP reads this when it is loaded.
        os.environ.setdefault("OMP_PROC_BIND", "true")
    _end_with(sys.stdin.fileno(), options.socket)
    threading.excepthook = _end_process
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(options, tell))
    except (LoadFailed, TemplateFault) as error:
        return _refuse(tell, "load_failed", str(error))
    except ImportError as error:
        why = f"llama-cpp-python cannot be used: {error}; pip install 'gatehook[gguf]'"
        return _refuse(tell, "not_installed", why)
    except OSError as error:
        return _refuse(tell, "socket_failed", f"{options.socket}: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001  # whatever it is, who waits is told
        traceback.print_exc(file=sys.stderr)
        return _refuse(tell, "load_failed", f"{type(error).__name__}: {error}")
    return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if it is there: what the event loop does takes time from the computing, and its loop takes least."""
    try:
        import uvloop
    except ImportError:  # no wheel for this platform
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _refuse(tell: Tell, code: str, message: str) -> int:
    """Tell why nothing can be served; gives the exit status."""
    tell({"failed": {"code": code, "message": message}})
    return 1


async def _serve(options: EngineOptions, tell: Tell) -> None:
    model = await asyncio.to_thread(_load, options, tell)
    length = options.context or min(model.trained_context or LONGEST_DEFAULT_CONTEXT, LONGEST_DEFAULT_CONTEXT)
    context = await asyncio.to_thread(_context, model, options, length)
    endpoints = _endpoints(options, model, context, length)
    runner = web.AppRunner(application(endpoints), access_log=None, handler_cancellation=True)
    await runner.setup()
    await asyncio.to_thread(Path(options.socket).unlink, missing_ok=True)
    mask = os.umask(0o177)
    try:
        await web.UnixSite(runner, options.socket).start()
    finally:
        os.umask(mask)
    if options.gpu_layers and not model.library.uses_gpu:
        tell({"warning": _NO_GPU})
    tell({"ready": {"context": length, "slots": options.slots, "memory": _resident()}})
    if options.step_timeout:
        await beat(lambda: tell({"alive": True}), endpoints.progress, options.step_timeout)
    await asyncio.Event().wait()


def _load(options: EngineOptions, tell: Tell) -> Model:
    if not Path(options.path).is_file():
        raise LoadFailed(f"{options.path}: there is no such file")
    return Model(Library(), options.path, options.gpu_layers, lambda done: tell({"progress": done}))


def _context(model: Model, options: EngineOptions, length: int) -> Context:
    return Context(
        model,
        context=length,
        sequences=options.slots,
        # An embedding may need the whole text in one step.
        batch=length if options.embedding else max(options.slots, min(options.batch, length * options.slots)),
        threads=options.threads,
        embedding=options.embedding,
        pooling=options.pooling,
    )


def _endpoints(options: EngineOptions, model: Model, context: Context, length: int) -> Endpoints:
    if options.embedding:
        if context.pooling == _RANK:
            raise LoadFailed(f"{options.path}: it ranks texts, and makes no embeddings of them")
        if context.pooling == 0:
            raise LoadFailed(f"{options.path}: it does not say how embeddings are pooled; set pooling, as in 'mean'")
        return EmbeddingServer(model, Embedder(context, sequences=options.slots), name=options.name, length=length)
    source = options.chat_template or model.metadata("tokenizer.chat_template") or PLAIN
    template = ChatTemplate(source, bos=model.text_of("bos"), eos=model.text_of("eos"))
    writer = Writer(model, template, context=length, reasoning=options.reasoning, seed=options.seed)
    scheduler = Scheduler(model, context, slots=options.slots, length=length)
    return TextServer(model, writer, scheduler, name=options.name, reasoning=options.reasoning)


def _end_with(file: int, socket: str) -> None:
    """End at once when the file descriptor `file` ends: the host has ended, or wants this process to."""

    def wait() -> None:
        while os.read(file, 1 << 16):
            pass
        with contextlib.suppress(OSError):
            Path(socket).unlink(missing_ok=True)
        os._exit(0)  # also while the library loads or computes

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _end_process(fault: threading.ExceptHookArgs) -> None:
    """End the process: the thread that computes has failed, and no request would ever be answered again."""
    traceback.print_exception(fault.exc_type, fault.exc_value, fault.exc_traceback, file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def _resident() -> int:
    """Bytes in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError):  # no Linux: the most there ever were
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
