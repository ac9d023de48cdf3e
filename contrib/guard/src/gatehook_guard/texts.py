"""Where in requests and answers there is text that people or models wrote."""

from collections.abc import Callable
from typing import Any, Final

__all__ = ["FIELDS", "mapped"]

FIELDS: Final = (
    "messages", "prompt", "suffix", "prediction", "negative_prompt", "input", "query", "documents", "instructions",
    "user", "safety_identifier", "metadata",
)  # fmt: skip
"""The fields of a request that hold text."""

_OPAQUE: Final = frozenset(
    {
        "role", "type", "id", "tool_call_id", "name", "image_url", "input_audio", "file", "thinking_blocks", "detail",
        "cache_control", "signature", "finish_reason", "logprobs", "index",
    }
)  # fmt: skip
"""Keys that hold no text to mask: names, markers, pictures, and reasoning whose signature would no longer match."""

Map = Callable[[str, str, bool], str]
"""Gets a text's path, the text, and whether it is JSON (the arguments of a tool); gives the new text."""


def mapped(value: Any, path: str, change: Map, json_text: bool = False) -> Any:
    """`value` with every text in it changed; parts in which nothing changes stay the same objects."""
    if isinstance(value, str):
        return change(path, value, json_text)
    if isinstance(value, list):
        found = [mapped(one, f"{path}[{place}]", change, json_text) for place, one in enumerate(value)]
        return found if any(new is not old for new, old in zip(found, value, strict=True)) else value
    if isinstance(value, dict):
        new = {
            key: one if key in _OPAQUE else mapped(one, f"{path}.{key}", change, key == "arguments")
            for key, one in value.items()
        }
        return new if any(new[key] is not value[key] for key in value) else value
    return value
