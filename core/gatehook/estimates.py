"""How many tokens a call will use, estimated before it is made: what limits and budgets reserve.

Two figures each: what is expected, and the most it can be. The upper bound holds for tokenisers whose tokens are at
least one byte of text each, as those of all models in use; pictures are counted by the piece, sounds and documents as
text.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from gatehook.accounts import Usage
from gatehook.errors import InvalidRequest
from gatehook.groups import Group
from gatehook.jsonio import Document, MalformedJSON
from gatehook.model import Call, Target

__all__ = [
    "BYTES_PER_TOKEN",
    "Estimate",
    "asked",
    "estimate",
    "estimated_usage",
    "expected_prompt",
    "has_pictures",
    "look_again",
    "written",
]

BYTES_PER_TOKEN = 4
"""Of text, as is expected."""
_EXPECTED_ANSWER = 500
"""Tokens of an answer, as is expected where the request sets no lower limit."""
_LONGEST_ANSWER = 16_384
"""Tokens of an answer, at most, where neither the request nor the deployment tells a limit or a context window."""
_PER_MESSAGE = 16
"""Tokens that a dialect may put around each message or tool."""
_MEDIUM, _LARGEST_MEDIUM = 1_000, 6_000
"""Tokens of a picture in a prompt, as most vendors count: of an ordinary one, and of the largest."""
_DRAWN, _LARGEST_DRAWN = 1_000, 7_000
"""The same of a picture that the model makes, where a vendor counts it in tokens."""
_PICTURE, _ESCAPED = b"image_url", b"\\u00"
"""A body with pictures holds one of these: the field's name, or a letter of it as an escape."""
_SHOWN, _WITH_MADE = ("content",), ("content", "images")
"""Fields of messages that hold pictures: those that are shown to the model, and beside them those that one has made."""
_WRITTEN = (
    "message", "text", "content", "thinking", "reasoning_content", "refusal", "audio", "transcript", "tool_calls",
    "function_call", "function", "custom", "name", "arguments", "input",
)  # fmt: skip
"""Where the choices of an answer have what the model has written. Pictures, sounds and signatures stand elsewhere."""
_PROMPTS = {"completions": "prompt", "embeddings": "input"}
"""Where a request of each operation has its prompt, which may be several."""


class Estimate(Struct, frozen=True, gc=False):
    """Tokens of prompt and answer: as expected, and at most. `images`: pictures, if the model makes some."""

    prompt: int
    completion: int
    prompt_most: int
    completion_most: int
    images: int = 0
    targets: Sequence[Target] = ()
    """The deployments that it is made for."""

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
        targets: the deployments it may go to.

    Raises:
        InvalidRequest: the body holds what cannot be decoded.
    """
    size = call.size
    if size is not None and size.targets is targets:
        return size
    group = targets if isinstance(targets, Group) else Group(targets)
    prompt, prompt_most = _prompt(call, group)
    if call.operation in ("embeddings", "images"):
        size = call.size = _unlike_text(call, group, prompt, prompt_most, targets)
        return size
    limit, times = call.max_tokens, call.choices
    if times is None:
        limit, times = _asked(call)
    most = limit or group.max_tokens or group.context_window or _LONGEST_ANSWER
    expected = min(most, _EXPECTED_ANSWER) * times
    size = call.size = Estimate(prompt, expected, prompt_most, most * times, times, targets)
    return size


def look_again(call: Call) -> None:
    """Go by the body from now on: what is asked for is not what the client has written any more."""
    call.size = None
    if call.choices:  # 0 says that no text is asked for, whatever the body is like
        most, call.choices = _asked(call)
        call.max_tokens = most or None


def expected_prompt(call: Call, group: Group) -> int:
    """`Estimate.prompt` alone: nothing else is worked out where nobody has asked for it.

    Raises:
        InvalidRequest: the body holds what cannot be decoded.
    """
    return _prompt(call, group)[0] if call.size is None else call.size.prompt


def estimated_usage(call: Call, completion_tokens: int) -> Usage:
    """What `call` has used at its target, where the vendor does not tell: its prompt is counted as it was expected."""
    try:
        prompt = expected_prompt(call, Group(() if call.target is None else (call.target,)))
    except InvalidRequest:  # the vendor has taken what nobody here has looked into
        prompt = len(call.body.raw) // BYTES_PER_TOKEN
    return Usage(prompt, completion_tokens, estimated=True)


def written(answer: Document) -> int:
    """Tokens of an answer, as is expected of the texts in its choices; of one that has none, by its size."""
    try:
        data = answer.data
    except MalformedJSON:  # of a field that nobody else looks at
        data = {}
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list):
        return len(answer.raw) // BYTES_PER_TOKEN
    size, left = 0, [*choices]
    while left:
        said = left.pop()
        if isinstance(said, str):
            size += len(said.encode("utf-8", "surrogatepass"))
        elif isinstance(said, list):
            left += said
        elif isinstance(said, dict):
            left += [said[name] for name in _WRITTEN if name in said]
            left.append(None if said.get("reasoning_content") else said.get("reasoning"))  # some servers tell both
    return -(-size // BYTES_PER_TOKEN)


def _unlike_text(call: Call, group: Group, prompt: int, prompt_most: int, targets: Sequence[Target]) -> Estimate:
    """The estimate where the answer is no text: embeddings count nothing, pictures are counted by the piece."""
    if call.operation == "embeddings":
        return Estimate(prompt, 0, prompt_most, 0, 0, targets)
    _, times = asked(call)
    most = min(group.max_tokens, _LARGEST_DRAWN) or _LARGEST_DRAWN
    return Estimate(prompt, min(most, _DRAWN) * times, prompt_most, most * times, times, targets)


def _prompt(call: Call, group: Group) -> tuple[int, int]:
    """Tokens of the prompt: expected, and at most."""
    raw, window = call.body.raw, group.context_window
    size = len(raw)
    # Objects are counted by what `replace` takes out: it is faster than `bytes.count`, which looks at each byte.
    expected, most = -(-size // BYTES_PER_TOKEN), size + (size - len(raw.replace(b"{", b""))) * _PER_MESSAGE
    if raw.find(b"[") != raw.rfind(b"[") and _may_have_pictures(raw):
        pictures, hidden = _pictures(call.payload.get("messages"), _WITH_MADE)
        expected = -(-(size - hidden) // BYTES_PER_TOKEN) + pictures * _MEDIUM
        most += pictures * _LARGEST_MEDIUM - hidden
    if window and call.operation != "chat":
        window *= _prompts(call)
    return (min(expected, window), min(most, window)) if window else (expected, most)


def _prompts(call: Call) -> int:
    """How many prompts a request that is no chat has, each with a context window for itself; 0 if nobody can tell."""
    if call.operation not in _PROMPTS:
        return 0
    given = call.payload.get(_PROMPTS[call.operation])
    # A list of numbers is one prompt, given as tokens.
    return max(sum(not isinstance(one, int) for one in given), 1) if isinstance(given, list) else 1


def _may_have_pictures(raw: bytes) -> bool:
    """Whether the field's name is in the body; to be asked only of bodies in which more than one list begins.

    Pictures stand in a list (the parts) within a list (the messages), and looking for two "[" is quicker than this.
    """
    # Not `in`, which first takes its operand for a number, and raises and swallows a TypeError each time.
    return raw.find(_PICTURE) >= 0 or (raw.find(b"\\") >= 0 and raw.find(_ESCAPED) >= 0)


def has_pictures(call: Call) -> bool:
    """Whether the request shows pictures.

    Raises:
        InvalidRequest: the body holds what cannot be decoded.
    """
    raw = call.body.raw
    if raw.find(b"[") == raw.rfind(b"[") or not _may_have_pictures(raw):
        return False
    return _pictures(call.payload.get("messages"), _SHOWN)[0] > 0


def asked(call: Call) -> tuple[int, int]:
    """How long each answer may be, in tokens (0 where the request does not say), and how many there will be.

    Raises:
        InvalidRequest: the body holds what cannot be decoded.
    """
    return (call.max_tokens or 0, call.choices) if call.choices is not None else _asked(call)


def _asked(call: Call) -> tuple[int, int]:
    """The same, read from the body."""
    said = call.payload
    most = said.get("max_completion_tokens") or said.get("max_tokens")
    times = [asked for asked in (said.get("n"), said.get("best_of")) if isinstance(asked, int)]
    each = max(times, default=1) if min(times, default=1) > 0 else 1
    prompts = _prompts(call) if call.operation == "completions" else 1  # each is answered by itself
    return max(most, 0) if isinstance(most, int) else 0, each * prompts


def _pictures(messages: Any, fields: Sequence[str]) -> tuple[int, int]:
    """How many pictures these fields hold, and the bytes of their URLs in all; a data URL holds the picture itself."""
    pictures = hidden = 0
    for message in messages if isinstance(messages, list) else ():
        for field in fields:
            parts = message.get(field) if isinstance(message, dict) else None
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict) and part.get("type") == "image_url":
                    pictures += 1
                    picture = part.get("image_url")
                    address = picture.get("url") if isinstance(picture, dict) else picture
                    hidden += len(address) if isinstance(address, str) else 0
    return pictures, hidden
