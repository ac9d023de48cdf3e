"""Works out a whole answer beforehand, and cuts it into pieces for a stream."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from gatehook import InvalidRequest, MalformedJSON, Usage, decode, encode, tool_call_id
from gatehook_plugins.vendor_mock.ask import Ask, count, tokens
from gatehook_plugins.vendor_mock.options import Mode, ToolCallOptions, Turn
from gatehook_plugins.vendor_mock.schema import SchemaTooLarge, instance

__all__ = ["GREETING", "Answer", "Piece", "PlannedCall", "compose", "pieces", "usage_of"]

GREETING: Final = "Hello from Gatehook's mock model."


class PlannedCall(Struct, frozen=True):
    """One tool call; `arguments` is the text that the model writes. `id` is "" where one is to be made up."""

    name: str
    arguments: str
    id: str = ""

    def fresh_id(self) -> str:
        """The given id, or a new one."""
        return self.id or tool_call_id()


class Answer(Struct, frozen=True):
    """One choice. `text` is None if the model says nothing because it calls tools."""

    reasoning: str
    text: str | None
    calls: Sequence[PlannedCall]
    finish_reason: str
    tokens: int
    reasoning_tokens: int


Piece = (
    tuple[Literal["reasoning", "text"], str] | tuple[Literal["call"], PlannedCall] | tuple[Literal["arguments"], str]
)
"""What one chunk of a stream carries: words, the beginning of a tool call, or more of its arguments."""


def compose(ask: Ask, turn: Turn, mode: Mode | None) -> Answer:
    """The answer to one question.

    Args:
        ask: the question.
        turn: what the deployment's options say about this answer.
        mode: the options' mode.

    Raises:
        InvalidRequest: a JSON Schema that asks for too much.
    """
    calls = _calls(ask, turn)
    text = None if ask.forced else _text(ask, turn, mode, has_calls=bool(calls))
    if text is not None:
        text = _until_stop(text, ask.stop)
    reasoning = turn.reasoning if ask.may_think else ""
    reason = turn.finish_reason or "stop"
    if ask.max_tokens is not None and ask.max_tokens < count(reasoning) + count(text or "") + bool(calls):
        reasoning, text = _cut(ask.max_tokens, reasoning, text or "")
        calls, reason = [], turn.finish_reason or "length"
    if reason == "stop" and calls:
        reason = "tool_calls"
    thought = count(reasoning)
    said = count(text or "") + sum(count(call.name) + count(call.arguments) for call in calls)
    return Answer(reasoning, text, calls, reason, thought + said, thought)


def usage_of(turn: Turn, prompt_tokens: int, answers: Iterable[Answer]) -> Usage | None:
    """What is reported, None if the options say that nothing is."""
    if not turn.report_usage:
        return None
    answers = list(answers)
    given = turn.usage.model_dump(exclude_none=True)
    counted = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": sum(answer.tokens for answer in answers),
        "reasoning_tokens": sum(answer.reasoning_tokens for answer in answers),
    }
    return Usage(**(counted | given))


def pieces(answer: Answer, size: int | None) -> Iterable[Piece]:
    """The answer in chunks of `size` characters, or of words."""
    for part in _split(answer.reasoning, size):
        yield "reasoning", part
    for part in _split(answer.text or "", size):
        yield "text", part
    for call in answer.calls:
        yield "call", call
        for part in _split(call.arguments, size):
            yield "arguments", part


def _split(text: str, size: int | None) -> Iterable[str]:
    if size is None:
        return tokens(text)
    return (text[start : start + size] for start in range(0, len(text), size))


def _calls(ask: Ask, turn: Turn) -> list[PlannedCall]:
    if not ask.may_call:
        return []
    calls = [_planned(call) for call in turn.tool_calls]
    if not ask.forced:
        return calls
    names = {function["name"] for function in ask.forced}
    return [call for call in calls if call.name in names] or [_made_up(ask.forced[0])]


def _planned(call: ToolCallOptions) -> PlannedCall:
    arguments = call.arguments if isinstance(call.arguments, str) else encode(call.arguments).decode()
    return PlannedCall(call.name, arguments, call.id)


def _made_up(function: Mapping[str, Any]) -> PlannedCall:
    arguments = _instance(function.get("parameters") or {}, "tools")
    return PlannedCall(function["name"], encode(arguments if isinstance(arguments, dict) else {}).decode())


def _instance(schema: Any, param: str) -> Any:
    try:
        return instance(schema)
    except SchemaTooLarge as error:
        raise InvalidRequest(f"{param}: {error}; the mock does not go that far", param=param) from None


def _text(ask: Ask, turn: Turn, mode: Mode | None, *, has_calls: bool) -> str | None:
    if mode == "echo":
        text = (turn.text or "") + ask.said
    elif turn.text is not None:
        text = turn.text
    elif has_calls:
        return None
    elif mode is None and ask.said:
        text = f"{GREETING} You said: {ask.said}"
    else:
        text = GREETING
    return _as_json(text, ask, own=turn.text is not None) if ask.as_json else text


def _as_json(text: str, ask: Ask, *, own: bool) -> str:
    """A JSON object: the text, if it is one (one from the options is trusted to fit the schema), else a made-up one."""
    if (own or ask.schema is None) and _is_object(text):
        return text
    return encode({"text": text} if ask.schema is None else _instance(ask.schema, "response_format")).decode()


def _is_object(text: str) -> bool:
    try:
        return isinstance(decode(text), dict)
    except MalformedJSON:
        return False


def _until_stop(text: str, stop: Sequence[str]) -> str:
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return text[: min(places)] if places else text


def _cut(limit: int, reasoning: str, text: str) -> tuple[str, str]:
    """Reasoning and text as far as the limit goes; thinking comes first and may leave nothing for the text."""
    thought = tokens(reasoning)[:limit]
    return "".join(thought), "".join(tokens(text)[: limit - len(thought)])
