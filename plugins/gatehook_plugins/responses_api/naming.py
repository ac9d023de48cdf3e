"""Errors that name fields of the chat which a request became, in the words of the request."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook import GatewayError, envelope

__all__ = ["named_as_sent"]

_MESSAGE: Final = re.compile(r"messages(?:\[(\d+)\])?")
_NAMES: Final[Mapping[str, str]] = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}


def named_as_sent(error: GatewayError, origins: Sequence[str]) -> dict[str, Any]:
    """OpenAI's error object; a field that its message begins with is named there, too.

    Args:
        error: as the gateway has it.
        origins: where in the request each message of the chat comes from.
    """
    told = envelope(error)
    if error.param and (own := _own(error.param, origins)) != error.param:
        told["error"]["param"] = own
        if error.message.startswith(error.param):
            told["error"]["message"] = own + error.message.removeprefix(error.param)
    return told


def _own(param: str, origins: Sequence[str]) -> str:
    if match := _MESSAGE.match(param):
        number = int(match[1]) if match[1] else len(origins)
        # A text has nothing below it; and plugins may have put messages of their own behind the client's.
        origin = origins[number] if number < len(origins) else "input"
        return origin + param[match.end() :] if origin.endswith("]") else origin
    name = re.match(r"\w*", param)
    own = _NAMES.get(name[0]) if name else None
    return own + param[len(name[0]) :] if name and own else param
