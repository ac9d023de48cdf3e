"""The sequences of a context, and which of them a new prompt finds the most of itself in."""

from collections.abc import Sequence
from typing import Final

from gatehook_plugins.vendor_gguf.engine.jobs import Job
from gatehook_plugins.vendor_gguf.engine.llama import Context

__all__ = ["Slot", "Slots", "common"]

_WORTH_COPYING: Final = 32
"""Tokens that have to be saved by it: the cells of a whole sequence are copied."""


class Slot:
    """A sequence: what its cells hold, and what is to be computed next."""

    def __init__(self, sequence: int) -> None:
        """It is empty."""
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
    """All of them."""

    def __init__(self, context: Context, count: int) -> None:
        """They are all free."""
        self._context = context
        self.all = [Slot(sequence) for sequence in range(count)]

    @property
    def busy(self) -> list[Slot]:
        """Those with a job, in the order of their sequences: so the library computes them together."""
        return [slot for slot in self.all if slot.job is not None]

    @property
    def used(self) -> int:
        """Cells that hold a token."""
        return sum(len(slot.cells) for slot in self.all)

    def place(self, job: Job, now: float) -> bool:
        """Give it a slot, with as much of its prompt as is computed anywhere.

        False if there is none, or if it is better to wait: another prompt with the same beginning is just being read.
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
        """Its job is over; what it computed stays, for who asks with the same beginning."""
        slot.job, slot.pending = None, []

    def forget(self, slots: Sequence[Slot]) -> None:
        """Free their cells."""
        for slot in slots:
            self._cut(slot, 0)

    def _cut(self, slot: Slot, keep: int) -> None:
        if not self._context.keep(slot.sequence, keep):  # recurrent models keep all or nothing
            keep = 0
            self._context.keep(slot.sequence, 0)
        del slot.cells[keep:]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is fast, comparing in Python is not
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _least_loss(free: Sequence[Slot], shared: Sequence[int]) -> Slot:
    """The slot that goes on, or else the one unused longest: what it remembers is lost."""
    best = max(free, key=lambda slot: shared[slot.sequence])
    if shared[best.sequence] * 2 > len(best.cells):
        return best
    return min(free, key=lambda slot: (slot.turn if slot.cells else -1, slot.sequence))
