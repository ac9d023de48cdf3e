"""Which segment of the journal each row of a list is in, run-length encoded: it changes once in thousands of rows."""

import sys

__all__ = ["Runs"]


class Runs:
    """Where each run begins in the list, and its segment; None for rows that are in none. The last run goes on."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int | None]] = []

    def __contains__(self, segment: int | None) -> bool:
        return any(one == segment for _, one in self._runs)

    def begin(self, place: int, segment: int | None) -> None:
        """Begin a run: rows that are appended from now on, at `place`, the list's end, are in this segment."""
        runs = self._runs
        if runs and runs[-1][0] == place:
            runs.pop()  # it is empty
        if not runs or runs[-1][1] != segment:
            runs.append((place, segment))

    def drop(self, place: int, count: int) -> dict[int | None, int]:
        """Take `count` rows out, from `place` on; gives how many of them were in each segment."""
        end = place + count
        kept: list[tuple[int, int | None]] = []
        dropped: dict[int | None, int] = {}
        ends = [*(begin for begin, _ in self._runs[1:]), sys.maxsize]
        for (first, segment), last in zip(self._runs, ends, strict=True):
            if (gone := min(last, end) - max(first, place)) > 0:
                dropped[segment] = dropped.get(segment, 0) + gone
            if last > end or first < place:
                kept.append((min(first, place) if first < end else first - count, segment))
        self._runs = kept
        return dropped
