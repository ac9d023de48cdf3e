"""The vendor: counts requests, finds out what each is to get, and says it at the pace that was asked for."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from pydantic import ValidationError

from gatehook import (
    Attempt,
    Call,
    Chunk,
    Completion,
    FileStore,
    Misconfigured,
    Operation,
    Parameter,
    StreamBuilder,
    Target,
    Usage,
    Vendor,
    completion,
)
from gatehook.legacy import chunk_from_chat, from_chat
from gatehook_plugins.vendor_mock.answer import Answer, Piece, compose, pieces, usage_of
from gatehook_plugins.vendor_mock.ask import read_chat, read_prompts
from gatehook_plugins.vendor_mock.embeddings import embed
from gatehook_plugins.vendor_mock.faults import NAME, fail, strike
from gatehook_plugins.vendor_mock.options import FaultOptions, Options, Turn, option_faults
from gatehook_plugins.vendor_mock.pictures import draw

__all__ = ["MockVendor"]


class _Deployment(Struct):
    """What is remembered of a deployment: its options, as written and as read, and how many requests it has had."""

    written: Mapping[str, Any]
    options: Options
    requests: int = 0


class _Play(Struct, frozen=True):
    """What one request gets."""

    answers: Sequence[Answer]
    usage: Usage | None


class MockVendor:
    """Answers from the options of the deployment. Every parameter is accepted; see `ask` for those that matter."""

    name: Final = NAME
    operations: Final[frozenset[Operation]] = frozenset({"chat", "completions", "embeddings", "images"})
    parameters: Final[Mapping[Operation, Mapping[str, Parameter]]] = {}

    def __init__(self, files: FileStore | None = None) -> None:
        """`files` keeps pictures that a client wants by URL."""
        self._files = files
        self._deployments: dict[str, _Deployment] = {}

    def check(self, target: Target) -> Iterable[str]:
        """What is wrong with a deployment's options."""
        return option_faults(target.options)

    async def probe(self, target: Target) -> None:
        """Always succeed: there is no server that could be away."""

    async def complete(self, attempt: Attempt) -> Completion:
        """A whole answer, after `first_delay`."""
        options, turn, fault = self._next(attempt.target)
        await asyncio.sleep(options.first_delay)
        if fault is not None:
            await fail(fault)
        call = attempt.call
        if call.operation == "embeddings":
            return embed(call, attempt.payload, options)
        if call.operation == "images":
            return await draw(call, attempt.payload, options, self._files)
        play = _play(attempt, turn, options)
        choices = [_choice(index, answer) for index, answer in enumerate(play.answers)]
        whole = completion(call, choices, play.usage)
        return from_chat(call, whole) if call.operation == "completions" else whole

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Sequence[Chunk], None]:
        """The same answer in chunks, `delay` apart, each a batch of its own; the last one carries all that ends it."""
        options, turn, fault = self._next(attempt.target)
        await asyncio.sleep(options.first_delay)
        if fault is not None and not fault.after:
            await strike(fault)
            return
        play = _play(attempt, turn, options)
        builder = StreamBuilder(attempt.call)
        steps = _interleaved([pieces(answer, options.chunk_size) for answer in play.answers])
        for sent, (index, piece) in enumerate(steps):
            if fault is not None and sent == fault.after:
                break
            if sent:
                # Also without a delay: the client's leaving is noticed only while the loop turns.
                await asyncio.sleep(options.delay)
            yield [_shaped(attempt.call, _chunk(builder, index, piece))]
        if fault is not None:
            await strike(fault)
            return
        await asyncio.sleep(options.delay)
        last = [builder.finish(answer.finish_reason, index) for index, answer in enumerate(play.answers)]
        if play.usage is not None:
            last.append(builder.usage(play.usage))
        yield [_shaped(attempt.call, chunk) for chunk in last]

    def _next(self, target: Target) -> tuple[Options, Turn, FaultOptions | None]:
        """The deployment's options, and what its next request gets.

        Raises:
            Misconfigured: the options are wrong.
        """
        known = self._deployments.get(target.key)
        if known is None or (known.written is not target.options and known.written != target.options):
            known = self._deployments[target.key] = _Deployment(target.options, _options(target))
        known.requests += 1
        return known.options, *known.options.turn(known.requests)


def _options(target: Target) -> Options:
    try:
        return Options.model_validate(target.options)
    except ValidationError:
        faults = "; ".join(option_faults(target.options))
        raise Misconfigured(faults, model=target.name) from None


def _play(attempt: Attempt, turn: Turn, options: Options) -> _Play:
    target, payload = attempt.target, attempt.payload
    mode = "script" if options.script else options.mode
    if attempt.call.operation == "chat":
        ask = read_chat(payload, target.max_tokens)
        answers = [compose(ask, turn, mode)] * ask.n
        return _Play(answers, usage_of(turn, ask.prompt_tokens, answers))
    asked = read_prompts(payload, target.max_tokens)
    answers = [answer for ask in asked for answer in [compose(ask, turn, mode)] * ask.n]
    usage = usage_of(turn, sum(ask.prompt_tokens for ask in asked), answers)
    if payload.get("echo") is True:
        said = [ask.said for ask in asked for _ in range(ask.n)]
        answers = [
            replace(answer, text=prompt + (answer.text or "")) for prompt, answer in zip(said, answers, strict=True)
        ]
    return _Play(answers, usage)


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": call.fresh_id(),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.calls
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}


def _chunk(builder: StreamBuilder, index: int, piece: Piece) -> Chunk:
    match piece:
        case ("text", text):
            return builder.text(text, index)
        case ("reasoning", text):
            return builder.reasoning(text, index)
        case ("call", call):
            return builder.tool_call(call.fresh_id(), call.name, index=index)
        case ("arguments", text):
            return builder.tool_arguments(text, index)


def _shaped(call: Call, chunk: Chunk) -> Chunk:
    return chunk_from_chat(call, chunk) if call.operation == "completions" else chunk


def _interleaved(choices: Sequence[Iterable[Piece]]) -> Iterable[tuple[int, Piece]]:
    """A piece of each choice in turn, as vendors mix them."""
    for row in zip_longest(*choices):
        for index, piece in enumerate(row):
            if piece is not None:
                yield index, piece


_implements: type[Vendor] = MockVendor
