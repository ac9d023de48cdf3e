"""How far a run is: counted by the steps of nodes that sample, and by one for each other node."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gatehook import Progress

__all__ = ["Meter"]


class Meter:
    """Works out the progress of one run from what the server says of it."""

    def __init__(
        self,
        prompt: Mapping[str, Any],
        called: Callable[[str], str],
        tell: Callable[[Progress], None] | None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """`called` gives a node's name for people; `part` is which of how many runs this is, counted from 0."""
        self._weights = {node: _weight(one["inputs"]) for node, one in prompt.items()}
        self._all = sum(self._weights.values())
        self._done: dict[str, float] = {}
        self._running = ""
        self._called = called
        self._tell = tell
        self._part = part
        self._fraction = 0.0
        self._message = ""
        """The last message that was reported."""

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return self._tell is not None

    def waiting(self, position: int) -> None:
        """Note that it is in the queue, with `position` others before it."""
        self._report(f"waiting, {position} before it", queue_position=position)

    def cached(self, nodes: Iterable[Any]) -> None:
        """Note that these nodes need not run."""
        self._done |= {node: 1.0 for node in nodes if node in self._weights}
        self._report("begun")

    def executing(self, node: str) -> None:
        """Note that this node begins, and so that the one before it has ended."""
        if self._running in self._weights:
            self._done[self._running] = 1.0
        self._running = node
        self._report(self._called(node))

    def step(self, node: str, value: float, most: float) -> None:
        """Note that a node is at step `value` of `most`."""
        if node in self._weights and most > 0:
            self._done[node] = min(max(value / most, 0.0), 1.0)
            self._report(f"{self._called(node)}: step {value:g} of {most:g}")

    def preview(self, picture: bytes) -> None:
        """Pass on a preview of the picture."""
        self._report(self._message or self._called(self._running), preview=picture)

    def _report(self, message: str, *, queue_position: int | None = None, preview: bytes = b"") -> None:
        if self._tell is None:
            return
        self._message = message
        done = sum(self._weights[node] * share for node, share in self._done.items())
        self._fraction = max(self._fraction, done / self._all)
        number, of = self._part
        self._tell(Progress((number + self._fraction) / of, message, queue_position, preview))


def _weight(inputs: Mapping[str, Any]) -> int:
    """How long a node takes, relative to others: as many as its steps if it samples, else one."""
    steps = inputs.get("steps")
    return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0 else 1
