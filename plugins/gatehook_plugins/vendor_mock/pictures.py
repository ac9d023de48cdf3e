"""Pictures that show nothing: one colour, made from a hash of the prompt, in the size that was asked for."""

import hashlib
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

from gatehook import Call, Completion, FileStore, InvalidRequest, Picture, Usage, pictures_answer, wants_urls
from gatehook_plugins.vendor_mock.ask import count, number
from gatehook_plugins.vendor_mock.options import Options

__all__ = ["draw", "png"]

_SIZE: Final = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
_USUAL: Final = (64, 64)
_MOST: Final = 10
"""OpenAI's limit of pictures in one answer."""


async def draw(call: Call, payload: Mapping[str, Any], options: Options, files: FileStore | None) -> Completion:
    """The answer to one request: the same pictures for the same prompt and seed.

    Raises:
        InvalidRequest: a field of a wrong type, or URLs where nothing stores files.
    """
    wants_urls(call, files)
    prompt, seed, size = payload.get("prompt"), payload.get("seed"), payload.get("size") or "auto"
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt: expected a text", param="prompt")
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None and size != "auto":
        raise InvalidRequest("size: expected 'auto' or a size such as '1024x1024'", param="size")
    width, height = (int(match[1]), int(match[2])) if match else _USUAL
    times = number(payload, "n", most=_MOST) or 1
    colours = [hashlib.sha256(f"{prompt}\0{seed}\0{n}".encode("utf-8", "surrogatepass")).digest() for n in range(times)]
    pictures = [Picture(png(width, height, colour[:3])) for colour in colours]
    tokens = count(prompt) if options.usage.prompt_tokens is None else options.usage.prompt_tokens
    usage = Usage(tokens, options.usage.completion_tokens or 0, images=times) if options.report_usage else None
    return await pictures_answer(call, pictures, files, usage=usage)


def png(width: int, height: int, colour: bytes) -> bytes:
    """A picture of one colour (red, green, blue): a palette of one, and a bit for each dot."""
    header = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    rows = bytes((width + 7) // 8 + 1) * height
    parts = [(b"IHDR", header), (b"PLTE", colour), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
