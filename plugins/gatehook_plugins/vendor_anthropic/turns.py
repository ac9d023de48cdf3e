"""Turns and their parts as Anthropic's messages and content blocks (`anthropic.types.ContentBlockParam`)."""

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gatehook import Blob, InvalidRequest, Media, Part, Retry, Text, Thinking, ToolResult, ToolUse, Turn
from gatehook_plugins.vendor_anthropic.tools import wire_id

__all__ = ["keep_last_marks", "messages", "system"]

_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_MOST_MARKS = 4

Block = dict[str, Any]


def system(texts: Iterable[Text]) -> list[Block]:
    """The wire's `system`: one block for each text, blank ones left out."""
    return [_text(text) for text in texts if not _is_blank(text)]


def messages(turns: Sequence[Turn], drop: Callable[[str], None]) -> list[Block]:
    """The wire's `messages`.

    Raises:
        InvalidRequest: the user says nothing in it, or it holds what Anthropic does not take.
    """
    # An answer may come first, a greeting as a rule; neighbours differ, so a user's turn is then the next.
    if not turns or (turns[0].role != "user" and len(turns) == 1):
        raise InvalidRequest(
            "messages: at vendor 'anthropic' a conversation needs a user message that is not empty",
            param="messages",
            retry=Retry.NEXT,
        )
    wire = [{"role": turn.role, "content": _blocks(turn, drop)} for turn in turns]
    _trim_end(wire)
    return wire


def _blocks(turn: Turn, drop: Callable[[str], None]) -> list[Block]:
    # Blank text beside other blocks is an error to Anthropic and means nothing; alone it is the client's own mistake.
    parts = [part for part in turn.parts if not _is_blank(part)] or turn.parts
    return [_block(part, turn.role, drop) for part in parts]


def _trim_end(wire: list[Block]) -> None:
    """An answer that is to be continued may not end in white space."""
    content = wire[-1]["content"]
    if wire[-1]["role"] != "assistant" or content[-1]["type"] != "text":
        return
    content[-1]["text"] = content[-1]["text"].rstrip()
    if not content[-1]["text"]:
        content.pop()
    if not content:
        wire.pop()


def _is_blank(part: Part) -> bool:
    return isinstance(part, Text) and not part.text.strip()


def _block(part: Part, role: str, drop: Callable[[str], None]) -> Block:
    match part:
        case Text():
            return _text(part)
        case Media():
            if role != "user":
                raise _refused(part.path, "an assistant message can hold text only")
            return _media(part, drop)
        case Thinking():
            if part.redacted:
                return {"type": "redacted_thinking", "data": part.redacted}
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case ToolUse():
            block = {"type": "tool_use", "id": wire_id(part.id), "name": part.name, "input": part.arguments}
            return _marked(block, part.extra.get("cache_control"))
        case ToolResult():
            return _result(part, drop)


def _result(result: ToolResult, drop: Callable[[str], None]) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": wire_id(result.id)}
    parts = [part for part in result.parts if not _is_blank(part)]
    content = [_text(part) if isinstance(part, Text) else _media(part, drop) for part in parts]
    # What a mark inside the result asks for is a cache up to there: the result as a whole carries it.
    marks = [inner.pop("cache_control") for inner in content if "cache_control" in inner]
    if content:
        block["content"] = content
    if result.failed:
        block["is_error"] = True
    return _marked(block, marks[-1] if marks else None)


def _text(text: Text) -> Block:
    return _marked({"type": "text", "text": text.text}, text.cache)


def _marked(block: Block, cache: Any) -> Block:
    if cache is not None:
        block["cache_control"] = cache
    return block


def _media(media: Media, drop: Callable[[str], None]) -> Block:
    if media.file_id:
        raise _refused(media.path, "a file_id belongs to the vendor that stored the file; send file_data")
    if media.kind == "audio":
        raise _refused(media.path, "Anthropic takes no audio")
    if media.detail:
        drop(f"{media.path}.detail")
    block = _by_url(media) if media.blob is None else _inline(media, media.blob)
    if block["type"] == "document":
        block |= media.extra
    return _marked(block, media.cache)


def _by_url(media: Media) -> Block:
    if not media.url.lower().startswith("https://"):
        raise _refused(media.path, "Anthropic fetches https URLs only; send a data URI")
    return {"type": "image" if media.kind == "image" else "document", "source": {"type": "url", "url": media.url}}


def _inline(media: Media, blob: Blob) -> Block:
    if blob.mime in _IMAGE_TYPES:
        return {"type": "image", "source": {"type": "base64", "media_type": blob.mime, "data": blob.base64}}
    if blob.mime == "application/pdf":
        source = {"type": "base64", "media_type": blob.mime, "data": blob.base64}
        return _titled({"type": "document", "source": source}, media.filename)
    if media.kind == "file" and blob.mime.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _words(media, blob)}
        return _titled({"type": "document", "source": source}, media.filename)
    takes = "JPEG, PNG, GIF and WebP images" + (", PDF and text" if media.kind == "file" else "")
    raise _refused(media.path, f"Anthropic takes {takes}, not {blob.mime}")


def _titled(block: Block, name: str) -> Block:
    return block | {"title": name} if name else block


def _words(media: Media, blob: Blob) -> str:
    try:
        return base64.b64decode(blob.base64).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{media.path}: the text is not UTF-8", param=media.path) from None


def keep_last_marks(blocks: Iterable[Block], drop: Callable[[str], None]) -> None:
    """Anthropic takes four cache marks. The last four stay: each covers everything before it.

    Args:
        blocks: tools, system and content blocks in the wire's order.
        drop: told if marks were taken away.
    """
    marked = [block for block in blocks if "cache_control" in block]
    for block in marked[:-_MOST_MARKS]:
        del block["cache_control"]
        drop("cache_control")


def _refused(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
