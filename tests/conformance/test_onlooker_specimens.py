"""The suites for transforms and observers bite: each fault is caught by the checks meant for it."""

import json
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pytest

from gatehook import (
    Call,
    Chunk,
    Completion,
    Document,
    Gateway,
    Observer,
    Outcome,
    Rewriter,
    Section,
    Transform,
    hookimpl,
)
from gatehook.testing.conformance import ObserverConformance, TransformConformance

WORD, MASK = "secret", "[mask]"


def plugin_of(hook: str, make: Any) -> type:
    """A plugin whose hook gives one object."""

    class Settings(Section): ...

    def begin(self: Any, settings: Settings) -> None: ...

    def register(self: Any, gateway: Gateway) -> Iterable[Any]:
        return [make()]

    register.__name__ = hook
    body = {"Settings": Settings, "__init__": begin, hook: hookimpl(register), "__module__": __name__}
    return type("Plugin", (), body)


# --- transforms ----------------------------------------------------------------------------------------------------


class SoundRewriter:
    """Masks one word; holds back what may be its beginning."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[str, Chunk]] = {}

    def masked(self, text: str) -> str:
        return text.replace(WORD, MASK)

    def completion(self, completion: Completion) -> Completion:
        text = json.dumps(completion.data, ensure_ascii=False)
        return Completion(json.loads(self.masked(text)), usage=completion.usage)

    def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        return [one for chunk in batch for one in self.chunk(chunk)]

    def chunk(self, chunk: Chunk) -> list[Chunk]:
        choice = next(iter(chunk.data["choices"]), None)
        kind, text = spoken(choice)
        if choice is None or (text is None and choice["finish_reason"] is None):
            return [*self.rest(), chunk]
        if text is None:
            return [*self.rest(), chunk]
        before, _ = self.held.pop(0, ("", chunk))
        said = self.masked(before + text)
        keep = next((size for size in range(len(WORD) - 1, 0, -1) if said.endswith(WORD[:size])), 0)
        if keep:
            self.held[0] = said[-keep:], saying(chunk, kind, said[-keep:])
        return [saying(chunk, kind, said[: len(said) - keep])]

    def rest(self) -> Sequence[Chunk]:
        held, self.held = self.held, {}
        return [chunk for _, chunk in held.values()]


def spoken(choice: Any) -> tuple[str, str | None]:
    """Which kind of text a choice has, and it."""
    delta = (choice or {}).get("delta") or {}
    if isinstance(delta.get("content"), str):
        return "content", delta["content"]
    calls = delta.get("tool_calls") or [{}]
    function = calls[0].get("function") or {}
    return "arguments", function.get("arguments")


def saying(chunk: Chunk, kind: str, text: str) -> Chunk:
    """The same chunk with another text."""
    data = json.loads(json.dumps(chunk.data))
    delta = data["choices"][0]["delta"]
    if kind == "content":
        delta["content"] = text
    else:
        delta["tool_calls"][0]["function"]["arguments"] = text
    return Chunk(data, content=True)


class Fault:
    """A class whose object has one fault; the checks that must find it."""

    caught: ClassVar[set[str]] = set()


class SoundTransform(Fault):
    async def transform(self, call: Call) -> Rewriter | None:
        self.requested(call)
        return self.rewriter()

    def requested(self, call: Call) -> None:
        text = json.dumps(call.payload)
        if WORD in text:
            call.body = Document(json.loads(text.replace(WORD, MASK)))

    def rewriter(self) -> Rewriter:
        return SoundRewriter()


class LeavesRequests(SoundTransform):
    caught: ClassVar[set[str]] = {"requests"}

    def requested(self, call: Call) -> None: ...


class RewritesAll(SoundTransform):
    caught: ClassVar[set[str]] = {"nothing to change"}

    def requested(self, call: Call) -> None:
        super().requested(call)
        call.body = Document({**call.payload, "user": "gatehook"})


class LeavesAnswers(SoundTransform):
    """Consistently: whole and streamed."""

    caught: ClassVar[set[str]] = {"answers", "tool calls"}

    def rewriter(self) -> Rewriter:
        return Leaving()


class Leaving(SoundRewriter):
    def masked(self, text: str) -> str:
        return text


class ByPiece(SoundTransform):
    """Holds nothing back, so that a word that is cut passes."""

    caught: ClassVar[set[str]] = {"split anywhere", "tool calls"}

    def rewriter(self) -> Rewriter:
        return Hasty()


class Hasty(SoundRewriter):
    def chunk(self, chunk: Chunk) -> list[Chunk]:
        kind, text = spoken(next(iter(chunk.data["choices"]), None))
        return [chunk if text is None else saying(chunk, kind, self.masked(text))]


class LosesUsage(SoundTransform):
    caught: ClassVar[set[str]] = {"usage"}

    def rewriter(self) -> Rewriter:
        return Forgetful()


class Forgetful(SoundRewriter):
    def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        return super().chunks([chunk for chunk in batch if not chunk.usage_only])


class BreaksJson(SoundTransform):
    caught: ClassVar[set[str]] = {"tool calls"}

    def rewriter(self) -> Rewriter:
        return Clumsy()


class Clumsy(SoundRewriter):
    def chunk(self, chunk: Chunk) -> list[Chunk]:
        kind, text = spoken(next(iter(chunk.data["choices"]), None))
        if kind == "arguments" and text is not None:
            return [saying(chunk, kind, text.replace('"', "'"))]
        return super().chunk(chunk)


class SharesOne(SoundTransform):
    """One rewriter for all calls."""

    caught: ClassVar[set[str]] = {"many at once"}

    def __init__(self) -> None:
        self.one = SoundRewriter()

    def rewriter(self) -> Rewriter:
        return self.one


class WantsText(SoundTransform):
    caught: ClassVar[set[str]] = {"odd answers"}

    def rewriter(self) -> Rewriter:
        return Picky()


class Picky(SoundRewriter):
    def completion(self, completion: Completion) -> Completion:
        message = completion.data["choices"][0]["message"]
        assert message["content"] or message["tool_calls"]
        return super().completion(completion)


def transform_suite(transform: type[SoundTransform]) -> TransformConformance:
    class Suite(TransformConformance):
        plugin = "specimen"
        plugin_class = plugin_of("register_transforms", transform)
        request = f"Keep this {WORD}."
        hidden = (WORD,)
        answer = f"It is a {WORD} now."
        masked = (WORD,)

    return Suite()


# --- observers -----------------------------------------------------------------------------------------------------


class SoundObserver(Fault, Observer):
    def __init__(self) -> None:
        self.running: dict[str, float] = {}

    def started(self, call: Call) -> None:
        self.running[call.id] = call.started

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.running.pop(call.id, None)


class WantsUsage(SoundObserver):
    caught: ClassVar[set[str]] = {
        "every course", "many at once", "no beginning", "nothing is changed", "secrets",
    }  # fmt: skip

    def finished(self, call: Call, outcome: Outcome) -> None:
        super().finished(call, outcome)
        assert outcome.usage is not None


class OneAtATime(SoundObserver):
    caught: ClassVar[set[str]] = {"many at once"}

    def __init__(self) -> None:
        super().__init__()
        self.current = ""

    def started(self, call: Call) -> None:
        assert not self.current
        self.current = call.id

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.current = ""


class NeedsABeginning(SoundObserver):
    caught: ClassVar[set[str]] = {"no beginning"}

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.running.pop(call.id)


class Marks(SoundObserver):
    caught: ClassVar[set[str]] = {"nothing is changed"}

    def finished(self, call: Call, outcome: Outcome) -> None:
        call.payload["seen"] = True


class KeepsCalls(SoundObserver):
    caught: ClassVar[set[str]] = {"nothing is kept"}

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.calls.append(call)


class LogsHeaders(SoundObserver):
    caught: ClassVar[set[str]] = {"secrets"}

    def started(self, call: Call) -> None:
        logging.getLogger("gatehook.specimen").debug("%s", dict(call.headers))


class Waits(SoundObserver):
    caught: ClassVar[set[str]] = {"latency"}

    def finished(self, call: Call, outcome: Outcome) -> None:
        time.sleep(0.0015)


def observer_suite(observer: type[SoundObserver]) -> ObserverConformance:
    class Suite(ObserverConformance):
        plugin = "specimen"
        plugin_class = plugin_of("register_observers", observer)

    return Suite()


# --- all of them ---------------------------------------------------------------------------------------------------

SUITES = {SoundTransform: transform_suite, SoundObserver: observer_suite}
FAULTS = [(fault, make) for sound, make in SUITES.items() for fault in sound.__subclasses__()]


@pytest.mark.parametrize("sound", SUITES)
async def test_what_is_sound_passes_every_check(sound: Any, failing: Any) -> None:
    assert await failing(SUITES[sound](sound)) == {}


@pytest.mark.parametrize(("fault", "make"), FAULTS)
async def test_a_fault_is_caught_by_the_checks_meant_for_it(fault: Any, make: Any, failing: Any) -> None:
    found = await failing(make(fault))
    assert set(found) == fault.caught, found


@pytest.mark.parametrize("sound", SUITES)
def test_there_is_a_fault_for_every_check(sound: Any, capabilities: Any) -> None:
    caught = set().union(*(fault.caught for fault in sound.__subclasses__()))
    assert caught == set(capabilities(type(SUITES[sound](sound))))


_implements: tuple[type[Transform], type[Observer]] = (SoundTransform, SoundObserver)
