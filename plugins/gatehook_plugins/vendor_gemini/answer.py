"""Reads GenerateContentResponse of the Gemini API, v1beta: what all answers have in common, and the plain ones.

Readers raise `WireError` on any shape they do not expect; unknown fields are skipped.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct

from gatehook import Attempt, Completion, Retry, Usage, completion, encode, tool_call_id
from gatehook_plugins.vendor_gemini.failure import WireError

__all__ = [
    "Call",
    "Shown",
    "Thought",
    "Words",
    "blocked",
    "candidates",
    "finish_reason",
    "get",
    "logprobs",
    "parts",
    "read_answer",
    "signed",
    "typed",
    "usage",
    "why_blocked",
    "why_ended",
]

T = TypeVar("T")

_FINISH: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        ("SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "RECITATION", "LANGUAGE", "IMAGE_SAFETY", "ESCALATION",
         "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        "content_filter",
    ),
}  # fmt: skip
_LOST: Final = ("inlineData", "executableCode", "codeExecutionResult", "toolCall", "toolResponse")
"""Parts without a place in OpenAI's shape; a picture has one."""
_PICTURE: Final = re.compile(r"image/[\w.+-]+", re.ASCII)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_COUNTS: Final = (
    "promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount",
    "cachedContentTokenCount",
)  # fmt: skip
_BROKEN: Final = {
    "MALFORMED_FUNCTION_CALL": Retry.SAME,
    "MALFORMED_RESPONSE": Retry.SAME,
    "UNEXPECTED_TOOL_CALL": Retry.SAME,
    "TOO_MANY_TOOL_CALLS": Retry.NEXT,
    "MISSING_THOUGHT_SIGNATURE": Retry.NEXT,
}
"""The model failed to answer; a new try may go better, except where the history is at fault."""


class Words(Struct, frozen=True):
    """A piece of the answer's text."""

    text: str
    signature: str


class Thought(Struct, frozen=True):
    """A piece of a summary of the model's reasoning."""

    text: str
    signature: str


class Shown(Struct, frozen=True):
    """A picture that belongs to the answer, as a data URI."""

    url: str
    signature: str

    @property
    def image(self) -> dict[str, Any]:
        """The picture as messages show it to clients that know how."""
        return {"type": "image_url", "image_url": {"url": self.url}, **signed(self.signature)}


class Call(Struct, frozen=True):
    """A whole function call; `id` is "" if the model gave none."""

    name: str
    arguments: str
    id: str
    signature: str

    @property
    def extra(self) -> dict[str, Any]:
        """What a client has to send back with the call, beyond OpenAI's fields."""
        google = {"thought_signature": self.signature, "function_call_id": self.id}
        google = {name: value for name, value in google.items() if value}
        return {"extra_content": {"google": google}} if google else {}


def typed(value: Any, kind: type[T], where: str) -> T:
    """`value`, which must be of that type."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WireError(f"unexpected answer: {where} is not of type {kind.__name__}")
    return value


def get(mapping: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    """A field that may be missing or null, but is otherwise of that type."""
    value = mapping.get(key)
    if value is None:
        return default
    return value if type(value) is kind else typed(value, kind, key)


def candidates(response: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The candidates with their indexes; 0 is left out on the wire."""
    for one in get(response, "candidates", list, []):
        candidate = typed(one, dict, "a candidate")
        index = get(candidate, "index", int, 0)
        if not 0 <= index < 1000:
            raise WireError("unexpected answer: a candidate's index is out of range")
        yield index, candidate


def parts(candidate: Mapping[str, Any], lost: Callable[[str], None]) -> Iterator[Words | Thought | Shown | Call]:
    """What a candidate says, in order; `lost` is told about parts that have no place in OpenAI's shape."""
    content = get(candidate, "content", dict, {})
    for one in get(content, "parts", list, []):
        part = typed(one, dict, "a part")
        signature = get(part, "thoughtSignature", str, "")
        call = get(part, "functionCall", dict, None)
        url = ""
        if call is not None:
            yield _call(call, signature)
        elif url := _picture(part):
            yield Shown(url, signature)
        elif part.get("text") is not None or signature:
            text = get(part, "text", str, "")
            yield Thought(text, signature) if part.get("thought") is True else Words(text, signature)
        if "text" not in part and not url:
            for name in _LOST:
                if name in part:
                    lost(f"answer.{name}")
    if "citationMetadata" in candidate:
        lost("answer.citationMetadata")


def signed(signature: str) -> dict[str, Any]:
    """The field in which a client finds a signature, and sends it back; none for none."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def _picture(part: Mapping[str, Any]) -> str:
    """The data URI of a picture that belongs to the answer, "" if it is something else (sketches are no answer)."""
    inline = get(part, "inlineData", dict, {})
    kind, data = get(inline, "mimeType", str, ""), get(inline, "data", str, "")
    if part.get("thought") is True or not data or not _PICTURE.fullmatch(kind):
        return ""
    if not _BASE64.fullmatch(data):
        raise WireError("unexpected answer: a picture is not base64")
    return f"data:{kind};base64,{data}"


def _call(call: Mapping[str, Any], signature: str) -> Call:
    name = get(call, "name", str, "")
    if not name:
        raise WireError("unexpected answer: a function call without a name")
    return Call(name, encode(get(call, "args", dict, {})).decode(), get(call, "id", str, ""), signature)


def finish_reason(reason: str, drop: Callable[[str], None]) -> str:
    """Google's finishReason in OpenAI's words; an unknown one is a "stop" that `drop` is told about."""
    if reason in _BROKEN:
        raise WireError(f"the model broke off its answer ({reason})", retry=_BROKEN[reason])
    if reason not in _FINISH:
        # It will stand in a response header, so nothing but a name may.
        drop(f"finish_reason.{re.sub(r'[^A-Za-z0-9_]', '', reason)[:40] or 'missing'}")
    return _FINISH.get(reason, "stop")


def blocked(response: Mapping[str, Any]) -> bool:
    """Whether the prompt itself was refused, so that there is no candidate."""
    feedback = get(response, "promptFeedback", dict, {})
    return bool(get(feedback, "blockReason", str, ""))


def why_blocked(response: Mapping[str, Any]) -> str:
    """Why a prompt was refused, in Google's words, "" if there are none."""
    return get(get(response, "promptFeedback", dict, {}), "blockReasonMessage", str, "")


def why_ended(candidate: Mapping[str, Any]) -> str:
    """What a candidate tells of its end, in Google's words, "" if nothing."""
    return get(candidate, "finishMessage", str, "")


def usage(metadata: Any) -> Usage | None:
    """What `usageMetadata` tells, in OpenAI's terms, None if it counts nothing; counts that Google leaves out are 0."""
    counts = typed({} if metadata is None else metadata, dict, "usageMetadata")
    if all(counts.get(name) is None for name in _COUNTS):
        return None
    thoughts = _count(counts, "thoughtsTokenCount")
    return Usage(
        prompt_tokens=_count(counts, "promptTokenCount") + _count(counts, "toolUsePromptTokenCount"),
        completion_tokens=_count(counts, "candidatesTokenCount") + thoughts,
        cached_tokens=_count(counts, "cachedContentTokenCount"),
        reasoning_tokens=thoughts,
    )


def _count(counts: Mapping[str, Any], key: str) -> int:
    return max(0, get(counts, key, int, 0))


def logprobs(candidate: Mapping[str, Any]) -> dict[str, Any] | None:
    """A `logprobsResult` as OpenAI's logprobs object, None if there is none."""
    result = get(candidate, "logprobsResult", dict, None)
    if result is None:
        return None
    chosen = get(result, "chosenCandidates", list, [])
    tops = get(result, "topCandidates", list, [])
    content = []
    for position, one in enumerate(chosen):
        top = get(typed(tops[position], dict, "topCandidates"), "candidates", list, []) if position < len(tops) else []
        content.append({**_token(one), "top_logprobs": [_token(other) for other in top]})
    return {"content": content, "refusal": None}


def _token(one: Any) -> dict[str, Any]:
    given = typed(one, dict, "a token")
    token = get(given, "token", str, "")
    probability = given.get("logProbability", 0)
    if isinstance(probability, bool) or not isinstance(probability, int | float):
        raise WireError("unexpected answer: a log probability is no number")
    return {"token": token, "logprob": probability, "bytes": list(token.encode("utf-8", "surrogatepass"))}


def read_answer(attempt: Attempt, response: Any) -> Completion:
    """A whole answer."""
    answer = typed(response, dict, "the answer")
    choices = [_choice(index, candidate, attempt) for index, candidate in candidates(answer)]
    choices.sort(key=lambda choice: choice["index"])
    if not choices:
        if not blocked(answer):
            raise WireError("an answer without candidates")
        choices = [_refusal(why_blocked(answer))]
    return completion(attempt.call, choices, usage(answer.get("usageMetadata")))


def _refusal(why: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": "", "refusal": why or None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": "content_filter"}


def _choice(index: int, candidate: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    signature = ""
    for part in parts(candidate, attempt.note):
        if isinstance(part, Call):
            if calls and attempt.single_call:
                attempt.note("answer.tool_calls")
                continue
            function = {"name": part.name, "arguments": part.arguments}
            calls.append({"id": part.id or tool_call_id(), "type": "function", "function": function, **part.extra})
            continue
        if isinstance(part, Shown):
            images.append(part.image)
            continue
        (text if isinstance(part, Words) else reasoning).append(part.text)
        signature = part.signature or signature
    words = "".join(text)
    message: dict[str, Any] = {"role": "assistant", "content": words if words or not calls else None, "refusal": None}
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    if images:
        message["images"] = images
    if calls:
        message["tool_calls"] = calls
    message |= signed(signature)
    try:
        reason = finish_reason(get(candidate, "finishReason", str, ""), attempt.note)
    except WireError as error:
        raise error.because(why_ended(candidate)) from None
    if reason == "content_filter":
        message["refusal"] = why_ended(candidate) or None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs(candidate),
        "finish_reason": "tool_calls" if calls and reason == "stop" else reason,
    }
