"""Answers in OpenAI's shapes, whole or as the events of a stream."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from gatehook_plugins.vendor_gguf.engine.calls import Call, CallReader
from gatehook_plugins.vendor_gguf.engine.jobs import Chance, Job, News
from gatehook_plugins.vendor_gguf.engine.llama import Model
from gatehook_plugins.vendor_gguf.engine.reasoning import ReasoningReader
from gatehook_plugins.vendor_gguf.engine.sampling import TokenChance
from gatehook_plugins.vendor_gguf.engine.writer import ChatPlan

__all__ = ["ChatShape", "CompletionShape", "Shape", "usage_of"]

Object = dict[str, Any]


class Shape:
    """Writes one answer, whole or as events; it keeps what has come so far."""

    kind = ""
    chunk_kind = ""
    prefix = ""

    def __init__(self, model: Model, name: str, choices: int) -> None:
        self._model = model
        self._head = {"id": f"{self.prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        self._finished: list[str | None] = [None] * choices

    def whole(self, jobs: Sequence[Job]) -> Object:
        """The answer, when all has come."""
        choices = [self._choice(at) for at in range(len(self._finished))]
        usage = usage_of(jobs)
        return {**self._head, "object": self.kind, "choices": choices, "usage": usage, "system_fingerprint": None}

    def first(self) -> list[Object]:
        """The events that a stream begins with."""
        return []

    def event(self, choices: list[Object], usage: Object | None = None) -> Object:
        """An event of a stream."""
        event = {**self._head, "object": self.chunk_kind, "choices": choices}
        return event if usage is None else {**event, "usage": usage}

    def add(self, at: int, news: News) -> list[Object]:
        """Take what is new of choice number `at`; gives the events for it."""
        raise NotImplementedError

    def _choice(self, at: int) -> Object:
        raise NotImplementedError

    def _piece(self, token: int) -> bytes:
        return self._model.piece(token, special=True)


class CompletionShape(Shape):
    """POST /v1/completions."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, model: Model, name: str, choices: int, *, chances: bool, echoes: Sequence[str] = ()) -> None:
        """`echoes` are what the texts begin with, if with anything."""
        super().__init__(model, name, choices)
        self._texts = [""] * choices
        self._echoes = dict(enumerate(echoes))
        """Those that were not told yet, by choice."""
        self._chances: list[Object | None] = [_no_chances() if chances else None for _ in range(choices)]

    def add(self, at: int, news: News) -> list[Object]:
        """See `Shape`."""
        text = self._echoes.pop(at, "") + news.text if self._echoes else news.text
        self._texts[at] += text
        told = self._chances[at]
        fresh = None if told is None else self._logprobs(news.chances)
        if told is not None and fresh is not None:
            for key, values in fresh.items():
                told[key] += values
        self._finished[at] = news.reason
        return [self.event([{"index": at, "text": text, "logprobs": fresh, "finish_reason": news.reason}])]

    def _choice(self, at: int) -> Object:
        text, chances = self._texts[at], self._chances[at]
        return {"index": at, "text": text, "logprobs": chances, "finish_reason": self._finished[at]}

    def _logprobs(self, chances: Sequence[Chance]) -> Object:
        told = _no_chances()
        for chance in chances:
            told["tokens"].append(self._text(chance.chosen.token))
            told["token_logprobs"].append(chance.chosen.logprob)
            told["top_logprobs"].append({self._text(each.token): each.logprob for each in chance.likeliest})
            told["text_offset"].append(chance.at)
        return told

    def _text(self, token: int) -> str:
        return self._piece(token).decode("utf-8", "replace")


class ChatShape(Shape):
    """POST /v1/chat/completions."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def __init__(
        self, model: Model, name: str, plan: ChatPlan, reasoning: tuple[str, str] | None, *, chances: bool
    ) -> None:
        choices = len(plan.jobs)
        super().__init__(model, name, choices)
        self._reasoning = [ReasoningReader(reasoning, begun=plan.reasons) for _ in range(choices)]
        self._calls = [CallReader(plan.family) if plan.family else None for _ in range(choices)]
        self._messages: list[Object] = [{"content": "", "reasoning_content": "", "tool_calls": []} for _ in plan.jobs]
        self._chances: list[list[Object] | None] = [[] if chances else None for _ in plan.jobs]

    def first(self) -> list[Object]:
        """See `Shape`."""
        return [self.event([_delta(at, {"role": "assistant", "content": ""})]) for at in range(len(self._finished))]

    def add(self, at: int, news: News) -> list[Object]:
        """See `Shape`."""
        reasoning, text, calls = self._read(at, news)
        message = self._messages[at]
        delta: Object = {}
        if reasoning:
            message["reasoning_content"] += reasoning
            delta["reasoning_content"] = reasoning
        if text:
            message["content"] += text
            delta["content"] = text
        if calls:
            first = len(message["tool_calls"])
            told = [_call(call) for call in calls]
            message["tool_calls"] += told
            delta["tool_calls"] = [{"index": first + nth, **call} for nth, call in enumerate(told)]
        logprobs = self._logprobs(at, news)
        events = [self.event([_delta(at, delta, logprobs)])] if delta or logprobs else []
        if news.reason:
            called = message["tool_calls"] and news.reason == "stop"
            self._finished[at] = "tool_calls" if called else news.reason
            events.append(self.event([_delta(at, {}, reason=self._finished[at])]))
        return events

    def _read(self, at: int, news: News) -> tuple[str, str, list[Call]]:
        """Part what is new into reasoning, text and calls, as far as that is certain."""
        reader, calls_reader = self._reasoning[at], self._calls[at]
        reasoning, text = reader.push(news.text)
        if news.reason:
            rest, more = reader.finish()
            reasoning, text = reasoning + rest, text + more
        if calls_reader is None:
            return reasoning, text, []
        said, calls = calls_reader.push(text)
        return reasoning, said + (calls_reader.finish() if news.reason else ""), calls

    def _logprobs(self, at: int, news: News) -> Object | None:
        all_of_them = self._chances[at]
        if all_of_them is None or not news.chances:
            return None
        fresh = [
            {**self._chance(chance.chosen), "top_logprobs": [self._chance(each) for each in chance.likeliest]}
            for chance in news.chances
        ]
        all_of_them += fresh
        return {"content": fresh, "refusal": None}

    def _chance(self, chance: TokenChance) -> Object:
        piece = self._piece(chance.token)
        return {"token": piece.decode("utf-8", "replace"), "logprob": chance.logprob, "bytes": list(piece)}

    def _choice(self, at: int) -> Object:
        told, chances = self._messages[at], self._chances[at]
        message: Object = {"role": "assistant", "content": told["content"]}
        if told["reasoning_content"]:
            message["reasoning_content"] = told["reasoning_content"]
        if told["tool_calls"]:
            message |= {"content": told["content"] or None, "tool_calls": told["tool_calls"]}
        logprobs = None if chances is None else {"content": chances, "refusal": None}
        return {"index": at, "message": message, "logprobs": logprobs, "finish_reason": self._finished[at]}


def usage_of(jobs: Sequence[Job]) -> Object:
    """What was used; a prompt of several choices counts once."""
    prompts = {id(job.prompt): job for job in reversed(jobs)}.values()
    read, written = sum(len(job.prompt) for job in prompts), sum(job.written for job in jobs)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(job.cached for job in prompts)},
    }


def _no_chances() -> Object:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _delta(at: int, delta: Object, logprobs: Object | None = None, reason: str | None = None) -> Object:
    choice = {"index": at, "delta": delta, "finish_reason": reason}
    return choice if logprobs is None else {**choice, "logprobs": logprobs}


def _call(call: Call) -> Object:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
