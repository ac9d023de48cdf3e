"""Transforms at work: requests changed on their way in, answers on their way out.

Caches store what vendors send: a stored answer is rewritten anew for each client that gets it. Tool policies judge the
answer as it goes out, after that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from gatehook.jsonio import Document
from gatehook.model import Call, Chunk, Completion, Entry
from gatehook.protocols import Rewriter, Transform
from gatehook.tools.own import TOOL_FIELDS, follow_up

__all__ = ["Transforms", "heard", "rewritten"]


class Transforms(tuple[Transform, ...]):
    """All of them, in the operator's order."""

    __slots__ = ()

    async def request(self, call: Call) -> None:
        """Let each transform change the request, and chain their rewriters for the answer, the last one's first.

        Raises:
            GatewayError: one refuses the request.
        """
        call.given = call.body
        rewriters = [await one.transform(call) for one in self]
        chosen = [one for one in reversed(rewriters) if one is not None]
        call.rewriter = None if not chosen else chosen[0] if len(chosen) == 1 else _Chain(chosen)

    async def follow_up(self, call: Call, message: Mapping[str, Any], results: Mapping[str, str]) -> None:
        """Make the request that follows a run of the gateway's own tools.

        Transforms see it as if the client had run the tools and sent their results: with its messages as they came, not
        as transforms have changed them before. Which tools the model may call stays as it is.

        Args:
            call: the call whose request was answered.
            message: the answer, as the client would get it; see `gatehook.tools.own.follow_up`.
            results: the result of each tool call, by its id.

        Raises:
            GatewayError: one refuses the request.
        """
        call.appended += 1 + len(results)
        new = follow_up(call.payload, message, results)
        if call.given is None:
            call.body = new
            return
        call.body = follow_up(call.given.data, message, results)
        await self.request(call)
        payload = {name: value for name, value in call.payload.items() if name not in TOOL_FIELDS}
        call.body = Document({**payload, **{name: new.data[name] for name in TOOL_FIELDS if name in new.data}})


def heard(call: Call, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message of the model, in OpenAI's shape, as the client would get it; so the gateway's own tools get it, too."""
    if call.rewriter is None:
        return message
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    data = call.rewriter.completion(Completion({"choices": [choice]})).data
    new: Mapping[str, Any] = data["choices"][0]["message"]
    return new


class _Chain:
    """Several rewriters, one after the other."""

    def __init__(self, rewriters: Sequence[Rewriter]) -> None:
        self._rewriters = rewriters

    def completion(self, completion: Completion) -> Completion:
        for one in self._rewriters:
            completion = one.completion(completion)
        return completion

    def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        for one in self._rewriters:
            batch = one.chunks(batch)
        return batch

    def rest(self) -> Sequence[Chunk]:
        rest: Sequence[Chunk] = ()
        for one in self._rewriters:
            rest = [*one.chunks(rest), *one.rest()] if rest else one.rest()
        return rest


def rewritten(call: Call, entry: Entry) -> Entry:
    """A stored answer as this call's client shall get it."""
    rewriter = call.rewriter
    if rewriter is None:
        return entry
    if entry.completion is not None:
        return structs.replace(entry, completion=rewriter.completion(entry.completion))
    return structs.replace(entry, chunks=(*rewriter.chunks(entry.chunks), *rewriter.rest()))
