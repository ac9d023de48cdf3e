"""What a client reads from an answer, and which rules of OpenAI's API the answer breaks."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gatehook.model import ToolCall

__all__ = ["Heard", "from_completion", "from_events"]


@dataclass
class Heard:
    """What a client has read from an answer with one choice. `faults` says in words which rules it breaks."""

    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    finish: str | None = None
    usage: Mapping[str, Any] | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def said(self) -> tuple[str, list[tuple[str, Any]], str | None]:
        """What matters to a client: not the ids, which may differ each time, nor the white space in arguments."""
        return self.text, [(call.name, _decoded(call.arguments)) for call in self.calls], self.finish

    def require(self, holds: object, fault: str) -> None:
        """Note the fault unless the claim holds; once."""
        if not holds and fault not in self.faults:
            self.faults.append(fault)


def from_completion(data: Mapping[str, Any], model: str) -> Heard:
    """Read a plain answer of a chat."""
    heard = Heard(usage=data.get("usage"))
    heard.require(data.get("object") == "chat.completion", f'"object" is {data.get("object")!r}')
    heard.require(data.get("model") == model, f'"model" is {data.get("model")!r}, not the public name {model!r}')
    heard.require(isinstance(data.get("id"), str) and data["id"], 'there is no "id"')
    heard.require(isinstance(data.get("created"), int), '"created" is no whole number')
    choices = data.get("choices") or [{}]
    heard.require(len(choices) == 1, f"there are {len(choices)} choices")
    choice, message = choices[0], choices[0].get("message") or {}
    heard.require(choice.get("index") == 0, '"index" of the first choice is not 0')
    heard.require(message.get("role") == "assistant", f'"role" is {message.get("role")!r}')
    heard.text, heard.finish = message.get("content") or "", choice.get("finish_reason")
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        heard.require(call.get("type") == "function", 'a tool call without type "function"')
        heard.calls.append(ToolCall(call.get("id") or "", function.get("name") or "", _arguments(heard, function)))
    _judge(heard)
    return heard


def from_events(events: Iterable[Mapping[str, Any]], model: str) -> Heard:
    """Read the chunks of a streamed chat."""
    heard, heads, roles = Heard(), set(), 0
    for number, event in enumerate(events):
        heads.add((event.get("id"), event.get("created"), event.get("model"), event.get("object")))
        heard.require(heard.usage is None, "something comes after the usage event")
        if event.get("usage"):
            heard.usage = event["usage"]
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            heard.require(heard.finish is None, "a choice goes on after its finish reason")
            heard.require(choice.get("index") == 0, "a choice that nobody asked for")
            heard.require("role" not in delta or not (heard.text or heard.calls), "the role comes after the content")
            heard.require(number or delta.get("role") == "assistant", "the first delta does not tell the role")
            roles += "role" in delta
            heard.text += delta.get("content") or ""
            for fragment in delta.get("tool_calls") or ():
                _take(heard, fragment)
            heard.finish = choice.get("finish_reason") or heard.finish
    heard.require(roles <= 1, f"the role is told {roles} times")
    heard.require(len(heads) <= 1, f"id, created, model and object change within the stream: {sorted(map(str, heads))}")
    for head in heads:
        heard.require(head[0] and isinstance(head[1], int), 'there is no "id", or no "created"')
        heard.require(head[2] == model, f'"model" is {head[2]!r}, not the public name {model!r}')
        heard.require(head[3] == "chat.completion.chunk", f'"object" is {head[3]!r}')
    _judge(heard)
    return heard


def _take(heard: Heard, fragment: Mapping[str, Any]) -> None:
    """Add a fragment of a tool call."""
    place, function = fragment.get("index"), fragment.get("function") or {}
    if fragment.get("id"):
        heard.require(place == len(heard.calls), "tool calls are not numbered from 0 in their order")
        heard.calls.append(ToolCall(fragment["id"], function.get("name") or "", _arguments(heard, function)))
    elif not heard.calls or place != len(heard.calls) - 1:
        heard.require(False, "a fragment of a tool call that did not begin, or a first one without its id")
    else:
        last = heard.calls[-1]
        heard.calls[-1] = ToolCall(last.id, last.name, last.arguments + _arguments(heard, function))


def _arguments(heard: Heard, function: Mapping[str, Any]) -> str:
    """The arguments of a tool call, or of a fragment of one."""
    told = function.get("arguments") or ""
    if isinstance(told, str):
        return told
    heard.require(False, f"the arguments of a tool call are a {type(told).__name__}, not JSON as a text")
    return json.dumps(told)


def _judge(heard: Heard) -> None:
    ids = [call.id for call in heard.calls]
    heard.require(all(ids) and len(set(ids)) == len(ids), "tool calls lack an id, or share one")
    heard.require(all(call.name for call in heard.calls), "a tool call lacks its name")
    for call in heard.calls:
        heard.require(isinstance(_decoded(call.arguments), dict), "the arguments of a tool call are no JSON object")


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
