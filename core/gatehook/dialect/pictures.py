"""Answers to the operation "images", in OpenAI's shape: pictures as base64 text, or by the URL of a stored file."""

import base64
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from gatehook.accounts import Usage
from gatehook.errors import InvalidRequest, Retry, Unavailable
from gatehook.model import Call, Completion
from gatehook.services.files import FileStore

__all__ = ["Picture", "picture_url", "pictures_answer", "wants_urls"]


class Picture(Struct, frozen=True):
    """One picture that was made. `revised_prompt` is the prompt as its vendor changed it, "" if it did not."""

    data: bytes
    media_type: str = "image/png"
    revised_prompt: str = ""


def wants_urls(call: Call, files: FileStore | None) -> bool:
    """Whether the client asked for URLs. To be called before anything is made that has to be paid for.

    Raises:
        InvalidRequest: it did, and there is no store of files to give any.
    """
    if call.payload.get("response_format") != "url":
        return False
    if files is None:
        raise InvalidRequest(
            "response_format: 'url' needs a store of files, and none is enabled here ([plugins.files]); "
            "ask for 'b64_json'",
            param="response_format",
            code="unsupported_parameter",
            retry=Retry.NEXT,
        )
    return True


async def pictures_answer(
    call: Call, pictures: Sequence[Picture], files: FileStore | None, *, usage: Usage | None = None
) -> Completion:
    """The whole answer, as the client wants it; `usage` None counts the pictures.

    Raises:
        InvalidRequest: see `wants_urls`. Unavailable: the store of files is away, or full.
    """
    urls = wants_urls(call, files)
    data = [await _entry(call, picture, files if urls else None) for picture in pictures]
    usage = usage or Usage(images=len(pictures))
    answer: dict[str, Any] = {"created": int(time.time()), "data": data}
    if usage.total_tokens:
        answer["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
    return Completion(answer, usage=usage)


async def picture_url(call: Call, picture: Picture, files: FileStore) -> str:
    """Store a picture of a call's answer for as long as the call says; returns its URL, which is valid as long.

    Raises:
        Unavailable: the store is away, or full. No other deployment is tried: it would make the picture, and bill it,
            again.
    """
    owner, keep = call.principal.id, call.keep_files
    try:
        file = await files.put(picture.data, media_type=picture.media_type, owner=owner, keep=keep)
    except Unavailable as error:
        error.retry = Retry.NEVER
        raise
    call.files = (*call.files, file.id)
    return files.url(file.id, lifetime=keep)


async def _entry(call: Call, picture: Picture, files: FileStore | None) -> dict[str, Any]:
    """One picture as an item of `data`; with `files` it is stored there."""
    told = {"revised_prompt": picture.revised_prompt} if picture.revised_prompt else {}
    if files is None:
        return {"b64_json": base64.b64encode(picture.data).decode(), **told}
    return {"url": await picture_url(call, picture, files), **told}
