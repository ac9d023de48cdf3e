"""Which of several prices is the lowest, by how many tokens of an answer there are to each one of the prompt."""

from bisect import bisect
from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Cheapest", "Price"]

Price: TypeAlias = tuple[float, float]
"""Of a token in and a token out."""


class Cheapest:
    """The lower envelope of the lines that costs are over that ratio: which line it is changes at a few ratios only."""

    __slots__ = ("_places", "_starts")

    def __init__(self, prices: Sequence[Price]) -> None:
        """`prices`: one at least, none of them negative."""
        envelope: list[Price] = []
        self._starts: list[float] = []
        """From which ratio on the second price of the envelope, the third and so on are the lowest."""
        for price in sorted(set(prices)):  # by rising price in: what comes later must be cheaper out
            if envelope and price[1] >= envelope[-1][1]:
                continue
            while self._starts and _crossing(envelope[-1], price) <= self._starts[-1]:
                envelope.pop()
                self._starts.pop()
            if envelope:
                self._starts.append(_crossing(envelope[-1], price))
            envelope.append(price)
        self._places = [[place for place, other in enumerate(prices) if other == price] for price in envelope]

    def at(self, ratio: float) -> Sequence[int]:
        """The places of the lowest price where so many tokens come out for each that goes in."""
        return self._places[bisect(self._starts, ratio)]


def _crossing(dear_out: Price, dear_in: Price) -> float:
    """At which ratio both cost the same."""
    return (dear_in[0] - dear_out[0]) / (dear_out[1] - dear_in[1])
