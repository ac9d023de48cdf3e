"""The client's messages made ready for `read_conversation`: what OpenAI's shape holds for Gemini only.

Gemini proves its reasoning with a thoughtSignature on a part. As in Google's own OpenAI compatibility, a client finds
it under `extra_content.google.thought_signature` of a tool call, a picture or a message, and sends it back from there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["google_extra", "prepared", "signature_of"]


def google_extra(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands under `extra_content.google`; empty if nothing does."""
    extra = holder.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    return google if isinstance(google, dict) else {}


def signature_of(holder: Mapping[str, Any]) -> str:
    """The thought signature that a message, picture or tool call brings back, "" if none."""
    signature = google_extra(holder).get("thought_signature")
    return signature if isinstance(signature, str) else ""


def prepared(messages: Sequence[Mapping[str, Any]], drop: Callable[[str], None]) -> list[Mapping[str, Any]]:
    """The messages with signatures as thinking blocks and Cloud Storage images as files; the others as they are.

    Args:
        messages: the request's `messages`.
        drop: told about thinking blocks of other vendors, whose proofs mean nothing to Gemini.
    """
    return [_message(message, f"messages[{number}]", drop) for number, message in enumerate(messages)]


def _message(message: Mapping[str, Any], path: str, drop: Callable[[str], None]) -> Mapping[str, Any]:
    if message.get("role") == "assistant":
        return _assistant(message, path, drop)
    content = message.get("content")
    if isinstance(content, list) and any(_cloud_uri(part) for part in content):
        return {**message, "content": [_part(part) for part in content]}
    return message


def _assistant(message: Mapping[str, Any], path: str, drop: Callable[[str], None]) -> Mapping[str, Any]:
    signature = signature_of(message)
    if message.get("thinking_blocks"):
        drop(f"{path}.thinking_blocks")
    elif not signature:
        return message
    blocks = [{"type": "thinking", "thinking": "", "signature": signature}] if signature else []
    told = {**message, "thinking_blocks": blocks}
    if told.get("extra_content") == {"google": {"thought_signature": signature}}:
        del told["extra_content"]  # it is read; left here, it would be told as dropped
    return told


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    uri = _cloud_uri(part)
    return {"type": "file", "file": {"file_id": uri}} if uri else part


def _cloud_uri(part: Mapping[str, Any]) -> str:
    if part.get("type") != "image_url":
        return ""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) and url.startswith("gs://") else ""
