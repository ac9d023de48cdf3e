"""All numbers at one moment, of this process or of all workers together."""

from collections.abc import Iterable, Mapping, Sequence

from gatehook_plugins.metrics.numbers import Page
from gatehook_plugins.metrics.recorder import REQUESTS

__all__ = ["Labels", "Totals"]

Labels = tuple[str, ...]


class Totals:
    """The sum of several pages, each with whether its process is alive: in a dead one nothing is running."""

    def __init__(self, pages: Iterable[tuple[Page, bool]]) -> None:
        self.running = 0
        self.processes: dict[int, int] = {}
        """The ids of live processes, by the workers' numbers."""
        self._families: dict[str, dict[Labels, list[float]]] = {}
        for page, is_there in pages:
            if is_there:
                self.running += page.running
                self.processes[page.worker] = page.owner
            for (family, *labels), cells in page.series():
                known = self._families.setdefault(str(family), {})
                place = tuple(map(str, labels))
                known[place] = [a + b for a, b in zip(known[place], cells, strict=True)] if place in known else cells

    def family(self, name: str) -> Mapping[Labels, Sequence[float]]:
        """Every series of a family: its cells, by its labels."""
        return self._families.get(name, {})

    def ended(self, *outcomes: str) -> float:
        """How many requests had one of these outcomes; all requests, if none is named."""
        requests = self.family(REQUESTS).items()
        return sum(count for (_, _, outcome, _), (count,) in requests if not outcomes or outcome in outcomes)
