"""Transforms at work: requests changed on their way in, answers on their way out.

Caches see what vendors see: a stored answer is rewritten anew for whoever gets it. Tool policies judge what goes out.
"""

from collections.abc import Sequence

from msgspec import structs

from gatehook.model import Call, Chunk, Completion, Entry
from gatehook.protocols import Rewriter, Transform

__all__ = ["Transforms", "rewritten"]


class Transforms:
    """All of them, in the operator's order."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._transforms = transforms

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._transforms)

    async def request(self, call: Call) -> None:
        """Change the request, and note what shall change the answer: the last transform's rewriter is the first.

        Raises:
            GatewayError: one refuses the request.
        """
        rewriters = [await one.transform(call) for one in self._transforms]
        chosen = [one for one in reversed(rewriters) if one is not None]
        if chosen:
            call.rewriter = chosen[0] if len(chosen) == 1 else _Chain(chosen)


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
