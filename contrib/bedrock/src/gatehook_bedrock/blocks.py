"""Turns and their parts as Bedrock's messages and content blocks (bedrock-runtime's ContentBlock)."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook import (
    Attempt,
    Blob,
    Conversation,
    Egress,
    InvalidRequest,
    Media,
    Part,
    Retry,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    sniff,
)
from gatehook_bedrock.names import takes_shown_results, takes_thoughts, tells_failures

__all__ = ["cache_point", "fetched", "messages", "refused", "system"]

Block = dict[str, Any]

_IMAGES: Final = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_AUDIO: Final = {"audio/wav": "wav", "audio/mpeg": "mp3", "audio/flac": "flac", "audio/ogg": "ogg"}
_DOCUMENTS: Final = {
    "application/pdf": "pdf", "text/csv": "csv", "text/html": "html", "text/plain": "txt", "text/markdown": "md",
    "application/msword": "doc", "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}  # fmt: skip
_FILMS: Final = {
    "video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv", "video/webm": "webm",
    "video/x-flv": "flv", "video/mpeg": "mpeg", "video/x-ms-wmv": "wmv", "video/3gpp": "three_gp",
}  # fmt: skip
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ID_OF_CLAUDE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNSAFE_NAME: Final = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")
_GREETING: Final = ("anthropic.", "qwen.", "zai.", "moonshot")
"""In the names of models with which a conversation may begin with an answer of theirs, such as a greeting."""
_MOST_IMAGES: Final = 20
_NOTHING: Final = {"text": "(nothing)"}
"""Where nothing is left to be said, and Bedrock wants something."""


def system(texts: Iterable[Text]) -> list[Block]:
    """The wire's `system`."""
    return [block for text in texts if not _is_blank(text) for block in _marked({"text": text.text}, text.cache)]


def messages(conversation: Conversation, images: Mapping[str, Blob], attempt: Attempt) -> list[Block]:
    """The wire's `messages`.

    Args:
        conversation: what was said.
        images: those that clients gave by URL.
        attempt: names the model, and records what is dropped.

    Raises:
        InvalidRequest: the user does not say what the model needs, or it holds what Bedrock does not take.
    """
    turns, model = conversation.turns, attempt.target.model
    if not turns or (turns[0].role != "user" and len(turns) == 1):
        raise refused("messages", "at vendor 'bedrock' a conversation needs a user message that is not empty")
    if turns[0].role != "user" and not any(sign in model for sign in _GREETING):
        raise refused("messages", f"at vendor 'bedrock' a conversation with {model!r} begins with a user message")
    writer = _Writer(images, attempt)
    wire = [{"role": turn.role, "content": writer.blocks(turn.parts)} for turn in turns]
    if "anthropic." in model and turns[-1].role == "assistant":
        _trim_end(wire)
    return wire


def _trim_end(wire: list[Block]) -> None:
    """An answer that Claude is to continue may not end in white space."""
    last = next(block for block in reversed(wire[-1]["content"]) if "cachePoint" not in block)
    if "text" not in last:
        return
    last["text"] = last["text"].rstrip()
    if not last["text"]:  # blank text is there only where there is nothing else
        wire.pop()


def _is_blank(part: Part) -> bool:
    return isinstance(part, Text) and not part.text.strip()


class _Writer:
    def __init__(self, images: Mapping[str, Blob], attempt: Attempt) -> None:
        model = attempt.target.model
        self._images = images
        self._drop = attempt.drop
        self._takes_thoughts = takes_thoughts(model)
        self._good_id = _ID_OF_CLAUDE if "anthropic." in model else _ID
        self._tells_failures = tells_failures(model)
        self._takes_shown = takes_shown_results(model)
        self._shown: list[Block] = []
        """What tools have shown to a model that does not look for it in their results."""
        self._documents = 0

    def blocks(self, parts: Sequence[Part]) -> list[Block]:
        # Blank text beside other blocks is an error to Bedrock and means nothing; alone it is the client's own mistake.
        said = [part for part in parts if not _is_blank(part)] or parts
        results = [block for part in said if isinstance(part, ToolResult) for block in self._result(part)]
        shown, self._shown = self._shown, []
        others = [block for part in said if not isinstance(part, ToolResult) for block in self._blocks(part)]
        blocks = [*results, *shown, *others]
        first = next((number for number, block in enumerate(blocks) if "document" in block), None)
        if first is not None and not any("text" in block for block in blocks):
            blocks.insert(first, {"text": "(document)"})  # Bedrock wants words beside it
        return blocks or [dict(_NOTHING)]

    def _blocks(self, part: Text | Media | Thinking | ToolUse) -> list[Block]:
        match part:
            case Text():
                return _marked({"text": part.text}, part.cache)
            case Media():
                return _marked(self._media(part), part.cache)
            case Thinking() if self._takes_thoughts:
                return [{"reasoningContent": _thinking(part)}]
            case Thinking():
                self._drop("thinking_blocks")
                return []
            case ToolUse():
                use = {"toolUseId": self._wire_id(part.id), "name": part.name, "input": part.arguments}
                return _marked({"toolUse": use}, part.extra.get("cache_control"))

    def _result(self, result: ToolResult) -> list[Block]:
        content: list[Block] = []
        for one in result.parts:
            if isinstance(one, Media):
                block = self._media(one)
                if not self._takes_shown:
                    self._shown.append(block)
                    block = {"text": "(shown below)"}
                content.append(block)
            elif not _is_blank(one):
                content.append({"text": one.text})
        told: Block = {"toolUseId": self._wire_id(result.id), "content": content or [dict(_NOTHING)]}
        if result.failed and self._tells_failures:
            told["status"] = "error"
        return _marked({"toolResult": told}, next((one.cache for one in reversed(result.parts) if one.cache), None))

    def _media(self, media: Media) -> Block:
        blob = self._images[media.url] if media.url else media.blob
        if blob is None:
            raise refused(media.path, "a file_id belongs to the vendor that stored the file; send file_data")
        if (form := _IMAGES.get(blob.mime)) is not None:
            return {"image": {"format": form, "source": {"bytes": blob.base64}}}
        if media.kind == "audio" and (form := _AUDIO.get(blob.mime)) is not None:
            return {"audio": {"format": form, "source": {"bytes": blob.base64}}}
        if media.kind == "file" and (form := _DOCUMENTS.get(blob.mime)) is not None:
            return {"document": {"format": form, "name": self._name(media.filename), "source": {"bytes": blob.base64}}}
        if media.kind == "file" and (form := _FILMS.get(blob.mime)) is not None:
            return {"video": {"format": form, "source": {"bytes": blob.base64}}}
        raise refused(media.path, f"Bedrock takes no {blob.mime} here")

    def _wire_id(self, given: str) -> str:
        """A tool call's id, as the model wrote it where it can be; different ids stay different."""
        if self._good_id.fullmatch(given):
            return given
        return "tooluse_" + hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    def _name(self, filename: str) -> str:
        """A document's name: only characters that Bedrock allows, and unique by the number at its end."""
        self._documents += 1
        known = " ".join(_UNSAFE_NAME.sub(" ", filename).split())[:150]
        return f"{known} {self._documents}" if known else f"document {self._documents}"


def cache_point(cache: Any) -> Block:
    """The mark that everything before it may be cached."""
    point = {"type": "default"}
    if isinstance(cache, Mapping) and cache.get("ttl") == "1h":  # "5m" is what all models do if nothing is said
        point["ttl"] = "1h"
    return {"cachePoint": point}


def _marked(block: Block, cache: Any) -> list[Block]:
    return [block] if cache is None else [block, cache_point(cache)]


def _thinking(part: Thinking) -> Block:
    if part.redacted:
        return {"redactedContent": part.redacted}
    return {"reasoningText": {"text": part.text, "signature": part.signature}}


async def fetched(conversation: Conversation, egress: Egress) -> Mapping[str, Blob]:
    """Download the images that the client gave by URL, as Bedrock does not; gives them by their URL.

    Raises:
        InvalidRequest: one cannot be fetched or is no image, or there are too many.
    """
    wanted = {one.url: one.url_path for one in _media(conversation) if one.url}
    if len(wanted) > _MOST_IMAGES:
        raise refused("messages", f"more than {_MOST_IMAGES} images by URL")
    found = await asyncio.gather(*(_fetch(egress, url, param) for url, param in wanted.items()))
    return dict(zip(wanted, found, strict=True))


def _media(conversation: Conversation) -> Iterator[Media]:
    for turn in conversation.turns:
        for part in turn.parts:
            inner = part.parts if isinstance(part, ToolResult) else [part]
            yield from (one for one in inner if isinstance(one, Media))


async def _fetch(egress: Egress, url: str, param: str) -> Blob:
    body = (await egress.fetch(url, param=param)).body
    mime = sniff(body[:16])
    if mime not in _IMAGES:
        raise InvalidRequest(f"{param}: what the URL gives is no image", param=param)
    return Blob(mime, base64.b64encode(body).decode("ascii"))


def refused(path: str, why: str) -> InvalidRequest:
    """The error for what Bedrock cannot do; another deployment is tried."""
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
