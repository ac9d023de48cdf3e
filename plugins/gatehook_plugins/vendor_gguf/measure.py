"""``python -m gatehook_plugins.vendor_gguf.measure``: how much memory a model would take, by the library's own account.

It reads `EngineOptions` as a JSON line, loads the model without its weights, and writes the number of bytes. It is a
process of its own because the library aborts its process on some files.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from gatehook_plugins.vendor_gguf.estimate import PROCESS, context_of
from gatehook_plugins.vendor_gguf.header import BadFile, read_header
from gatehook_plugins.vendor_gguf.options import EngineOptions

__all__ = ["measured"]

_PROGRAM: Final = (sys.executable, "-m", "gatehook_plugins.vendor_gguf.measure")
_SECONDS: Final = 20.0
_BUFFER: Final = re.compile(rb"(?:llama_(?:kv_cache|memory)\w*: +size|(?:compute|output) buffer size) *= *([\d.]+) MiB")
"""What the library logs about each buffer that it would allocate; for caches, the sum of several."""


async def measured(options: EngineOptions) -> int | None:
    """Bytes of memory that a model takes when it is loaded with these options; None if the library cannot tell."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    environ = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        process = await asyncio.create_subprocess_exec(*_PROGRAM, stdin=pipe, stdout=pipe, stderr=nothing, env=environ)
    except OSError:
        return None
    try:
        async with asyncio.timeout(_SECONDS):
            said, _ = await process.communicate(msgspec.json.encode(options) + b"\n")
    except TimeoutError:
        said = b""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return int(said) if said.strip().isdigit() else None


def _measure(options: EngineOptions) -> int:
    """Load the model without its weights, and add up the sizes of its buffers.

    Raises:
        BadFile: the file cannot be read, or the library cannot load it.
    """
    import llama_cpp

    header = read_header(Path(options.path))
    said: list[bytes] = []

    def hear(level: int, text: bytes, data: Any) -> None:
        said.append(text)

    listen = llama_cpp.llama_log_callback(hear)  # without a name it would be collected while the library has it
    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    how = llama_cpp.llama_model_default_params()
    how.no_alloc, how.load_mode, how.n_gpu_layers = True, llama_cpp.LLAMA_LOAD_MODE_NONE, options.gpu_layers
    model = llama_cpp.llama_model_load_from_file(options.path.encode(), how)
    if not model:
        raise BadFile("cannot be loaded by the library")
    room = llama_cpp.llama_context_default_params()
    room.n_ctx = context_of(header, options.context) * options.slots
    room.n_seq_max, room.n_batch, room.n_ubatch = options.slots, options.batch, options.batch
    room.embeddings = options.embedding
    if not llama_cpp.llama_init_from_model(model, room):
        raise BadFile("has no room for its context")
    buffers = sum(float(size) for size in _BUFFER.findall(b"".join(said)))
    return header.size + int(buffers * 2**20) + PROCESS


def _main() -> int:
    try:
        need = _measure(msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineOptions))
    except (ImportError, BadFile, OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{need}\n")
    sys.stdout.flush()
    os._exit(0)  # without cleaning up: the library may crash when it frees what was never allocated


if __name__ == "__main__":
    sys.exit(_main())
