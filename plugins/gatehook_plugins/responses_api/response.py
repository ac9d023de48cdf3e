"""The response object of one request, from its beginning to its end."""

import time
from collections.abc import Mapping
from typing import Any, Final, Literal

from gatehook import GatewayError, InvalidRequest, RateLimited, Usage, confirmation_of
from gatehook_plugins.responses_api.chat import Chat
from gatehook_plugins.responses_api.events import Events
from gatehook_plugins.responses_api.naming import named_as_sent
from gatehook_plugins.responses_api.output import Output
from gatehook_plugins.responses_api.requests import ResponseRequest

__all__ = ["Response", "echoed"]

_INCOMPLETE: Final[Mapping[str, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not complete, by its finish reason."""
_TIERS: Final = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
"""What clients know; other vendors have others."""


class Response:
    """What is known of a response so far."""

    def __init__(self, call_id: str, echoed: Mapping[str, Any], chat: Chat) -> None:
        """What there is before any answer.

        Args:
            call_id: the request's.
            echoed: what the request says about itself, in the object's own fields.
            chat: what the request became.
        """
        suffix = call_id.removeprefix("req_")
        self.origins = chat.origins
        self.events = Events()
        self._output = Output(suffix, self.events, chat.names)
        self._begun = False
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._asked: dict[str, Any] = {}
        """By which fields a decision about tool calls is asked for."""
        self._object: dict[str, Any] = {
            "id": f"resp_{suffix}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": "",
            "output": [],
            "usage": None,
            **echoed,
        }

    def begin(self, model: str, data: Mapping[str, Any]) -> None:
        """Tell, once, that there is an answer; `data` is the first of it, as the vendor gives it."""
        if self._begun:
            return
        self._begun = True
        self._object["model"] = model
        if (tier := data.get("service_tier")) in _TIERS:
            self._object["service_tier"] = tier
        self.events.tell("response.created", response=self._object)
        self.events.tell("response.in_progress", response=self._object)

    def add(self, data: Mapping[str, Any], part: Literal["delta", "message"], usage: Usage | None) -> None:
        """Take the next part of the answer, or all of it."""
        self._usage = usage or self._usage
        for choice in data.get("choices") or ():
            if choice.get("index"):  # this API has one answer
                continue
            said, logprobs = choice.get(part) or {}, choice.get("logprobs")
            if part == "message" and said.get("tool_calls"):  # as in streams, where some servers give them no ids
                calls = [{**call, "index": number} for number, call in enumerate(said["tool_calls"])]
                said = {**said, "tool_calls": calls}
            if said or logprobs:
                self._output.add(said, logprobs)
            self._reason = choice.get("finish_reason") or self._reason
        if asked := confirmation_of(data):
            self._asked = {name: value for name, value in asked.items() if name != "status"}

    def whole(self, usage: Usage | None) -> dict[str, Any]:
        """The object of an answer that has come to its end."""
        why = _INCOMPLETE.get(self._reason or "")
        self._output.finish(whole=why is None)
        ended: dict[str, Any] = {"status": "incomplete", "incomplete_details": {"reason": why}}
        if why is None:
            ended = {"status": "completed", "completed_at": int(time.time())}
        told = {"output": self._output.items, "usage": _usage(usage or self._usage), **self._asked}
        return {**self._object, **ended, **told}

    def end(self, usage: Usage | None) -> bytes:
        """The last events of a stream that was complete."""
        told = self.whole(usage)
        self.events.tell(f"response.{told['status']}", response=told)
        return self.events.taken()

    def fail(self, model: str, error: GatewayError) -> bytes:
        """The last event of a stream that broke: what there is of the answer, and why there is no more."""
        self.begin(model, {})
        with self.events.withheld():  # a client would take an item that is done for one to go by: a call, to be made
            self._output.cut()
        told = {**named_as_sent(error, self.origins)["error"], "code": _code(error)}
        failed = {**self._object, "status": "failed", "error": told, "output": self._output.items}
        self.events.tell("response.failed", response=failed)
        return self.events.taken()


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    """Tokens; None where nobody knows."""
    if usage is None:
        return None
    details = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
        **({"estimated": True} if usage.estimated else {}),
    }


def _code(error: GatewayError) -> str:
    """One of the codes that this API's clients know."""
    if isinstance(error, RateLimited):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"


def echoed(request: ResponseRequest, data: Mapping[str, Any]) -> dict[str, Any]:
    """What the response object repeats of the request; null where the vendor decides.

    Args:
        request: the request.
        data: the same as it came.
    """
    reasoning, text = data.get("reasoning") or {}, data.get("text") or {}
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": request.prompt_cache_retention,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "safety_identifier": request.safety_identifier,
        "service_tier": request.service_tier,
        "store": False,
        "temperature": request.temperature,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }
