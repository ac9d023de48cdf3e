"""Rewrites the answer to one call: placeholders become what they stand for, and what else is found is masked."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook import Chunk, Completion, Rewriter
from gatehook_guard.detectors import Detector
from gatehook_guard.scanner import JsonScanner, Patterns, Scanner
from gatehook_guard.texts import mapped
from gatehook_guard.vault import PLACEHOLDER, Vault

__all__ = ["Rewriting"]

_TEXTS: Final = ("content", "reasoning_content", "refusal")
"""Fields of a delta that hold text."""

Place = tuple[int, str, int]
"""A text of a stream: the choice's index, the field of its delta and, for arguments, the tool call's index (else 0)."""


class Rewriting:
    """Implements `gatehook.Rewriter`. Log probabilities are removed: they would spell out what is masked."""

    def __init__(self, patterns: Patterns, vault: Vault) -> None:
        self._patterns = patterns
        self._vault = vault
        self._found = Vault(vault.placeholders)
        """What was found in the answer itself: masked, and never put back, whatever the model writes."""
        self._scanners: dict[Place, Scanner] = {}
        self._head: Mapping[str, Any] = {}
        """The fields of the stream's chunks, but for its choices and usage."""

    def completion(self, completion: Completion) -> Completion:
        """See `Rewriter.completion`."""
        data = dict(completion.data)
        for name in ("choices", "results", "output"):
            if name in data:
                data[name] = mapped(data[name], name, lambda _, text, is_json: self._whole(text, is_json))
        if isinstance(choices := data.get("choices"), list):
            data["choices"] = [{**choice, "logprobs": None} if choice.get("logprobs") else choice for choice in choices]
        return Completion(data, usage=completion.usage)

    def _whole(self, text: str, is_json: bool) -> str:
        scanner = self._scanner(is_json)
        return scanner.feed(text) + scanner.rest()

    def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        """See `Rewriter.chunks`. All text that is held back of a choice is given out before the choice ends."""
        found: list[Chunk] = []
        for chunk in batch:
            choices = chunk.data.get("choices")
            if not choices:
                found.append(chunk)
                continue
            self._head = {name: value for name, value in chunk.data.items() if name not in ("choices", "usage")}
            ahead: list[dict[str, Any]] = []
            new = [self._choice(choice, ahead) for choice in choices]
            found += (self._chunk([choice]) for choice in ahead)
            said = any(_says(choice) for choice in new)
            data = {**chunk.data, "choices": new}
            found.append(Chunk(data, content=said, finished=chunk.finished, usage=chunk.usage))
        return found

    def rest(self) -> Sequence[Chunk]:
        """See `Rewriter.rest`."""
        choices = sorted({choice for choice, _, _ in self._scanners})
        return [self._chunk([left]) for choice in choices for left in self._left(choice)]

    def _choice(self, choice: Mapping[str, Any], ahead: list[dict[str, Any]]) -> dict[str, Any]:
        """A choice with as much of its text as may go out; what has to go out before it is added to `ahead`."""
        index = choice.get("index", 0)
        new = {**choice, "logprobs": None} if choice.get("logprobs") else dict(choice)
        ends = choice.get("finish_reason") is not None
        if isinstance(text := choice.get("text"), str):
            new["text"] = self._scan((index, "text", 0), text, ends)
            return new
        delta = dict(choice.get("delta") or {})
        fields = [name for name in _TEXTS if isinstance(delta.get(name), str) and delta[name]]
        calls = delta.get("tool_calls")
        if fields or calls:
            # A text in another field is over: the end of the reasoning is no part of the answer's first word.
            ahead += self._left(index, but=(*fields, "arguments") if calls else tuple(fields))
        for name in fields:
            delta[name] = self._scan((index, name, 0), delta[name], ends)
        if calls:
            delta["tool_calls"] = [self._call(index, call, ahead, ends) for call in calls]
        if ends:
            ahead += self._left(index)
        new["delta"] = delta
        return new

    def _call(self, index: int, call: Mapping[str, Any], ahead: list[dict[str, Any]], ends: bool) -> dict[str, Any]:
        function = dict(call.get("function") or {})
        if isinstance(text := function.get("arguments"), str):
            number = call.get("index") or 0
            ahead += self._left(index, but=("arguments",), number=number)
            function["arguments"] = self._scan((index, "arguments", number), text, ends)
        return {**call, "function": function}

    def _scan(self, place: Place, text: str, ends: bool) -> str:
        """What may go out now of a text that goes on; all that is left of it, if it ends."""
        scanner = self._scanners.get(place)
        if scanner is None:
            scanner = self._scanners[place] = self._scanner(place[1] == "arguments")
        said = scanner.feed(text)
        return said + self._scanners.pop(place).rest() if ends else said

    def _left(self, index: int, but: tuple[str, ...] = (), number: int | None = None) -> list[dict[str, Any]]:
        """What is held back of a choice, as choices for chunks of their own.

        Args:
            index: the choice's.
            but: fields whose text stays held back.
            number: of "arguments" in `but`, the tool call whose arguments stay; None: those of all.
        """
        found: list[dict[str, Any]] = []
        for place in [one for one in self._scanners if one[0] == index]:
            _, field, call = place
            if field in but and (number is None or call == number):
                continue
            if not (text := self._scanners.pop(place).rest()):
                continue
            delta: dict[str, Any] = {field: text}
            if field == "arguments":
                delta = {"tool_calls": [{"index": call, "function": {"arguments": text}}]}
            body = delta if field == "text" else {"delta": delta}
            found.append({"index": index, **body, "logprobs": None, "finish_reason": None})
        return found

    def _chunk(self, choices: list[dict[str, Any]]) -> Chunk:
        return Chunk({**self._head, "choices": choices}, content=True)

    def _scanner(self, is_json: bool) -> Scanner:
        def replace(detector: Detector, found: str) -> str:
            if detector is PLACEHOLDER:
                value = self._vault.value(found)
                return found if value is None else value
            # What the client wrote itself is no secret to it, however the model came to write it.
            return found if self._vault.knows(found) and self._restores else self._found.mask(detector.label, found)

        return (JsonScanner if is_json else Scanner)(self._patterns, replace)

    @property
    def _restores(self) -> bool:
        return PLACEHOLDER in self._patterns.detectors


def _says(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or delta.get("tool_calls") or any(delta.get(name) for name in _TEXTS))


_implements: type[Rewriter] = Rewriting
