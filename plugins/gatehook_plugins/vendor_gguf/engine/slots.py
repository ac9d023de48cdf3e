"""The sequences of a context, and which of them has computed the most of a new prompt's beginning."""

from collections.abc import Sequence
from typing import Final

from gatehook_plugins.vendor_gguf.engine.jobs import Job
from gatehook_plugins.vendor_gguf.engine.llama import Context

__all__ = ["Slot", "Slots", "common"]

_WORTH_COPYING: Final = 32
"""A sequence is copied if that saves so many tokens: the cells of the whole sequence are copied."""


class Slot:
    """A sequence: what its cells hold, and what is to be computed next."""

    def __init__(self, sequence: int) -> None:
        """An empty slot."""
        self.sequence = sequence
        self.cells: list[int] = []
        """The tokens computed, in their order."""
        self.pending: list[int] = []
        """The tokens to be computed: what is left of the prompt, or the token chosen last."""
        self.job: Job | None = None
        self.turn = 0
        """The step in which it was computed last."""

    @property
    def reading(self) -> bool:
        """Whether a part of the prompt is left."""
        return self.job is not None and self.job.written == 0


class Slots:
    """All slots of a context."""

    def __init__(self, context: Context, count: int) -> None:
        """`count` slots, all free."""
        self._context = context
        self.all = [Slot(sequence) for sequence in range(count)]

    @property
    def busy(self) -> list[Slot]:
        """The slots with a job, in the order of their sequences: then the library computes them together."""
        return [slot for slot in self.all if slot.job is not None]

    @property
    def used(self) -> int:
        """Cells that hold a token."""
        return sum(len(slot.cells) for slot in self.all)

    def place(self, job: Job, now: float) -> bool:
        """Give a job a slot, with as much of its prompt as any slot has computed already.

        False if no slot is free, or if it is better to wait as another prompt with the same beginning is being read.
        """
        free = [slot for slot in self.all if slot.job is None]
        if not free:
            return False
        prompt = job.prompt
        shared = [common(slot.cells, prompt) for slot in self.all]
        donor = max(self.all, key=lambda slot: shared[slot.sequence])
        soon = (common(slot.cells + slot.pending, prompt) for slot in self.all if slot.reading)
        if max(soon, default=0) - shared[donor.sequence] >= _WORTH_COPYING:
            return False
        slot = _least_loss(free, shared)
        if shared[donor.sequence] - shared[slot.sequence] >= _WORTH_COPYING:
            self._context.copy(donor.sequence, slot.sequence)
            slot.cells = list(donor.cells)
        # The last token has to be computed in any case: the answer begins with what follows it.
        self._cut(slot, min(common(slot.cells, prompt), len(prompt) - 1))
        slot.job, slot.pending = job, prompt[len(slot.cells) :]
        job.cached, job.placed_at = len(slot.cells), now
        return True

    def release(self, slot: Slot) -> None:
        """Free a slot; what it has computed stays, for prompts with the same beginning."""
        slot.job, slot.pending = None, []

    def forget(self, slots: Sequence[Slot]) -> None:
        """Empty the cells of these slots."""
        for slot in slots:
            self._cut(slot, 0)

    def _cut(self, slot: Slot, keep: int) -> None:
        if not self._context.keep(slot.sequence, keep):  # recurrent models keep all or nothing
            keep = 0
            self._context.keep(slot.sequence, 0)
        del slot.cells[keep:]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common beginning of two lists of tokens."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is fast, comparing in Python is not
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _least_loss(free: Sequence[Slot], shared: Sequence[int]) -> Slot:
    """A free slot that loses little: the one that the prompt continues, or else the one unused for longest."""
    best = max(free, key=lambda slot: shared[slot.sequence])
    if shared[best.sequence] * 2 > len(best.cells):
        return best
    return min(free, key=lambda slot: (slot.turn if slot.cells else -1, slot.sequence))
