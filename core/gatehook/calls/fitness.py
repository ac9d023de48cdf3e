"""Which deployments can do what a request asks for, as far as they tell: pictures, tools, lengths.

A deployment that tells nothing can do everything. An estimate (four bytes a token) is enough to prefer another
deployment; a request is refused only where no tokeniser in use could make it short enough.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from gatehook.errors import InvalidRequest
from gatehook.estimates import BYTES_PER_TOKEN, asked, has_pictures
from gatehook.groups import tells_limits
from gatehook.model import Call, Target
from gatehook.ranking import Ranking

__all__ = ["fitting"]

_MOST_BYTES_PER_TOKEN: Final = 16
"""Of any text that people send, on average: more than tokenisers in use reach."""
_MEDIA: Final = frozenset({"image_url", "input_audio", "file", "source", "image", "audio", "video_url", "document"})
"""Fields of messages whose strings are not read as text: media, as data or as URLs."""
_TOOLS: Final = (b"tools", b"functions", b"\\u00")
"""A body that offers tools holds one of these: a key, or a letter of it as an escape."""


def fitting(call: Call, targets: Sequence[Target]) -> Sequence[Target]:
    """The deployments that can serve this call, in their order; `targets` itself where none tells its limits.

    Raises:
        InvalidRequest: none can; or the body holds what cannot be decoded.
    """
    if type(targets) is not Ranking and not any(map(tells_limits, targets)):
        return targets
    # As long as the first one does well, nothing is asked of the others.
    needs, first = _Needs(call), targets[0]
    return Ranking(first, lambda: needs.met_by(targets)[1:]) if needs.well_met_by(first) else needs.met_by(targets)


class _Needs:
    """What one call needs; each need is worked out when it first matters for a deployment."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._size = len(call.body.raw)
        self._answer = 0 if call.operation == "embeddings" else asked(call)[0]
        self._pictures: bool | None = None
        self._tools: bool | None = None
        self._text: int | None = None

    def well_met_by(self, target: Target) -> bool:
        """Whether it can serve the call, and is expected to have room for it."""
        return self._refusal(target) is None and self._has_room(target)

    def met_by(self, targets: Sequence[Target]) -> Sequence[Target]:
        refusals = [self._refusal(target) for target in targets]
        able = [target for target, refusal in zip(targets, refusals, strict=True) if refusal is None]
        if not able and refusals[0] is not None:
            raise refusals[0]
        roomy = [target for target in able if self._has_room(target)] if len(able) > 1 else able
        return roomy or able

    def _refusal(self, target: Target) -> InvalidRequest | None:
        """Why this deployment cannot serve the call; None if it may."""
        if told := target.capabilities:
            if "vision" not in told and self._shows_pictures():
                return self._incapable("the request shows pictures", "vision", "messages")
            if "tools" not in told and self._offers_tools():
                return self._incapable("the request offers tools", "tools", "tools")
        if (longest := target.max_tokens) and self._answer > longest:
            return InvalidRequest(
                f"max_tokens: {self._answer} is more than the model {self._call.model!r} can answer with ({longest})",
                param="max_tokens",
                code="invalid_value",
            )
        window = target.context_window
        if window and self._is_long(window) and self._tokens(_MOST_BYTES_PER_TOKEN) > window:
            return InvalidRequest(
                f"the prompt is too long for the model {self._call.model!r}, whose context window is {window} tokens; "
                "shorten it",
                param="messages" if self._call.operation == "chat" else "prompt",
                code="context_length_exceeded",
            )
        return None

    def _incapable(self, what: str, capability: str, param: str) -> InvalidRequest:
        return InvalidRequest(
            f"{what}, and no deployment of the model {self._call.model!r} has the capability {capability!r}",
            param=param,
            code="unsupported_capability",
        )

    def _has_room(self, target: Target) -> bool:
        """Whether prompt and answer are expected to find room in its context window."""
        window = target.context_window
        return not window or not self._is_long(window) or self._tokens(BYTES_PER_TOKEN) + self._answer <= window

    def _is_long(self, window: int) -> bool:
        """Whether a closer look is worthwhile: it is not, where the window has room for a token per byte."""
        return self._size + self._answer > window and self._call.operation != "embeddings"

    def _tokens(self, size: int) -> int:
        """Tokens of the prompt's text, or of the longest of several prompts, at `size` bytes a token."""
        if self._text is None:
            payload = self._call.payload
            prompts = payload.get("prompt")
            several = prompts if isinstance(prompts, list) else [prompts]  # each has the window for itself
            beside = [payload.get(name) for name in ("messages", "tools", "functions")]
            self._text = sum(_texts(beside)) + max((sum(_texts(one)) for one in several), default=0)
        return self._text // size

    def _shows_pictures(self) -> bool:
        if self._pictures is None:
            self._pictures = has_pictures(self._call)
        return self._pictures

    def _offers_tools(self) -> bool:
        if self._tools is None:
            raw = self._call.body.raw
            payload = self._call.payload if any(word in raw for word in _TOOLS) else {}
            self._tools = bool(payload.get("tools") or payload.get("functions"))
        return self._tools


def _texts(value: Any) -> Iterator[int]:
    """The sizes in bytes of all texts in `value` that a model reads as text."""
    if isinstance(value, str):
        yield len(value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name not in _MEDIA:
                yield from _texts(one)
