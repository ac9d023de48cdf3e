"""Which segment of the journal each row of a list is in. It changes once in thousands of rows, so they come in runs."""

import sys

__all__ = ["Runs"]


class Runs:
    """Where each run begins in the list, and its segment; None for rows that are in none. The last run goes on."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int | None]] = []

    def __contains__(self, segment: int | None) -> bool:
        return any(one == segment for _, one in self._runs)

    def begin(self, place: int, segment: int | None) -> None:
        """From `place` on, where the list ends now, rows are in this segment."""
        runs = self._runs
        if runs and runs[-1][0] == place:
            runs.pop()  # nothing has come into it
        if not runs or runs[-1][1] != segment:
            runs.append((place, segment))

    def drop(self, place: int, count: int) -> dict[int | None, int]:
        """So many rows leave the list from `place` on; gives how many of them were in which segment."""
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
