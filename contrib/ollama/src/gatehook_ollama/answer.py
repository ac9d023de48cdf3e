"""Ollama's answers (ollama's ChatResponse), whole and in pieces, as OpenAI's."""

from collections.abc import Mapping
from typing import Any

from gatehook import Attempt, Chunk, Completion, StreamBuilder, UpstreamError, Usage, completion, encode, tool_call_id
from gatehook_ollama.failure import in_band

__all__ = ["Translation", "read"]

_REASONS = {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"}


def read(attempt: Attempt, data: Mapping[str, Any]) -> Completion:
    """A whole answer.

    Raises:
        GatewayError: it is an error, or not what Ollama gives.
    """
    if "error" in data:
        raise in_band(attempt.target, data)
    told = _message(data)
    message: dict[str, Any] = {"role": "assistant", "content": told.get("content") or None}
    if thinking := told.get("thinking"):
        message["reasoning_content"] = thinking
    if calls := [_tool_call(one) for one in told.get("tool_calls") or ()]:
        if len(calls) > 1 and attempt.single_call:
            del calls[1:]
            attempt.note("answer.tool_calls")
        message["tool_calls"] = [
            {"id": known, "type": "function", "function": {"name": name, "arguments": arguments}}
            for known, name, arguments in calls
        ]
    elif message["content"] is None:
        message["content"] = ""
    reason = _reason(data, attempt)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(data),
        "finish_reason": "tool_calls" if calls and reason == "stop" else reason,
    }
    return completion(attempt.call, [choice], _usage(data))


class Translation:
    """One streamed answer: each line of it becomes chunks."""

    def __init__(self, attempt: Attempt) -> None:
        self.done = False
        self._attempt = attempt
        self._chunks = StreamBuilder(attempt.call)

    def take(self, data: Any, batch: list[Chunk]) -> None:
        """Translate one line, adding its chunks to `batch`.

        Raises:
            GatewayError: it is an error, or not what Ollama gives.
        """
        if not isinstance(data, dict):
            raise UpstreamError("ollama: a line of the stream is not an object")
        if "error" in data:
            raise in_band(self._attempt.target, data)
        told = _message(data)
        if thinking := told.get("thinking"):
            batch.append(self._chunks.reasoning(thinking))
        if text := told.get("content"):
            batch.append(self._chunks.text(text, logprobs=_logprobs(data)))
        for call in told.get("tool_calls") or ():
            if self._chunks.has_tool_calls() and self._attempt.single_call:
                self._attempt.note("answer.tool_calls")
            else:
                batch.append(self._chunks.tool_call(*_tool_call(call)))
        if data.get("done") is True:
            batch.append(self._chunks.finish(_reason(data, self._attempt)))
            if (usage := _usage(data)) is not None:
                batch.append(self._chunks.usage(usage))
            self.done = True


def _message(data: Mapping[str, Any]) -> Mapping[str, Any]:
    message = data.get("message", {} if data.get("done") is True else None)
    if not isinstance(message, dict):
        raise UpstreamError("ollama: the answer holds no message")
    for name in ("content", "thinking"):
        if not isinstance(message.get(name) or "", str):
            raise UpstreamError(f"ollama: the answer's {name} is not text")
    return message


def _tool_call(call: Any) -> tuple[str, str, str]:
    """Its id, name, and arguments as JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UpstreamError("ollama: a tool call without a function")
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else encode(arguments or {}).decode()
    given = call.get("id")
    return (given if isinstance(given, str) and given else tool_call_id()), function["name"], text


def _reason(data: Mapping[str, Any], attempt: Attempt) -> str:
    told = data.get("done_reason") or "stop"
    reason = _REASONS.get(told) if isinstance(told, str) else None
    if reason is None:
        attempt.note(f"done_reason={told}"[:100])
    return reason or "stop"


def _usage(data: Mapping[str, Any]) -> Usage | None:
    """None if the server counted nothing; a prompt that was in its cache is not always counted."""
    counts = [data.get(name) for name in ("prompt_eval_count", "eval_count")]
    prompt, answer = (count if isinstance(count, int) and count >= 0 else 0 for count in counts)
    return Usage(prompt, answer) if prompt or answer else None


def _logprobs(data: Mapping[str, Any]) -> dict[str, Any] | None:
    told = data.get("logprobs")
    if not isinstance(told, list) or not told:
        return None
    return {"content": [_logprob(one) | {"top_logprobs": _alternatives(one)} for one in told], "refusal": None}


def _alternatives(token: Any) -> list[dict[str, Any]]:
    return [_logprob(one) for one in token.get("top_logprobs") or ()]


def _logprob(token: Any) -> dict[str, Any]:
    try:
        text, logprob = token["token"], token["logprob"]
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "surrogatepass"))}
    except (TypeError, KeyError, AttributeError):
        raise UpstreamError("ollama: the answer's logprobs are not as its API tells") from None
