"""How many tokens a call will use, told before it is made: what limits and budgets reserve.

Two figures each: what is expected, and what it can be at most. The bounds hold for tokenisers that make no token out of
less than a byte of text, which is all that are in use; pictures, sounds and documents are counted by the piece.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gatehook.model import Call, Target

__all__ = ["Estimate", "estimate"]

_BYTES_PER_TOKEN = 4
_EXPECTED_ANSWER = 500
"""Tokens of an answer that nobody limits."""
_LONGEST_ANSWER = 16_384
"""The same, at most, where the deployment tells neither a limit nor a context window."""
_PER_MESSAGE = 16
"""Tokens that a dialect may put around each message or tool."""
_MEDIUM, _LARGEST_MEDIUM = 1_000, 6_000
"""Tokens of a picture: as most vendors count an ordinary one, and the largest. Sounds and documents: as their bytes."""


class Estimate(Struct, frozen=True):
    """Tokens in and out: expected, and at most."""

    prompt: int
    completion: int
    prompt_most: int
    completion_most: int

    @property
    def tokens(self) -> int:
        """Expected in all."""
        return self.prompt + self.completion

    @property
    def most(self) -> int:
        """At most in all."""
        return self.prompt_most + self.completion_most


def estimate(call: Call, targets: Sequence[Target]) -> Estimate:
    """What `call` will use at one of these deployments.

    Args:
        call: parsed.
        targets: the deployments it may go to, fallbacks left out.

    Raises:
        InvalidRequest: the body holds what cannot be decoded.
    """
    known: Estimate | None = call.state.get("estimate")
    if known is None:
        known = call.state["estimate"] = _estimate(call, targets)
    return known


def _estimate(call: Call, targets: Sequence[Target]) -> Estimate:
    raw = call.body.raw
    size, pieces = len(raw), 0
    if b'"image_url"' in raw or b'"input_audio"' in raw or b'"file"' in raw:
        size, pieces = _without_media(call.payload.get("messages"))
    prompt = -(-size // _BYTES_PER_TOKEN) + pieces * _MEDIUM
    prompt_most = size + raw.count(b"{") * _PER_MESSAGE + pieces * _LARGEST_MEDIUM
    window, longest = _bounds(targets)
    if window:
        prompt, prompt_most = min(prompt, window), min(prompt_most, window)
    if call.operation == "embeddings":
        return Estimate(prompt, 0, prompt_most, 0)
    completion, completion_most = _answer(call, longest, window)
    return Estimate(prompt, completion, prompt_most, completion_most)


def _bounds(targets: Sequence[Target]) -> tuple[int, int]:
    """The widest context window and the longest answer; 0 where not all of these deployments tell theirs."""
    window = longest = 0
    told_window = told_longest = True
    for target in targets:
        window = max(window, target.context_window or 0)
        longest = max(longest, target.max_tokens or 0)
        told_window = told_window and target.context_window is not None
        told_longest = told_longest and target.max_tokens is not None
    return window if told_window else 0, longest if told_longest else 0


def _answer(call: Call, longest: int, window: int) -> tuple[int, int]:
    payload = call.payload
    asked = payload.get("max_completion_tokens") or payload.get("max_tokens")
    most = asked if isinstance(asked, int) and asked > 0 else longest or window or _LONGEST_ANSWER
    answers = payload.get("n")
    times = answers if isinstance(answers, int) and answers > 1 else 1
    return min(most, _EXPECTED_ANSWER) * times, most * times


def _without_media(messages: Any) -> tuple[int, int]:
    """Bytes of everything that is text, and how many pieces are not. Sounds and documents count by their bytes."""
    size = pieces = 0
    for part in _parts(messages):
        if part.get("type") == "image_url":
            pieces += 1
        else:
            size += _bytes(part)
    return size, pieces


def _parts(messages: Any) -> Iterable[Mapping[str, Any]]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))
            yield {name: value for name, value in message.items() if name != "content"}
        elif isinstance(message, dict):
            yield message


def _bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict):
        return sum(_bytes(name) + _bytes(item) for name, item in value.items())
    if isinstance(value, list):
        return sum(map(_bytes, value))
    return 8
