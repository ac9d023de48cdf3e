"""Which of several prices is the lowest, depending on the ratio of an answer's tokens to the prompt's."""

from bisect import bisect
from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Cheapest", "Price"]

Price: TypeAlias = tuple[float, float]
"""What a token of the prompt costs, and one of the answer."""


class Cheapest:
    """The lower envelope of the lines that costs make over that ratio: which is lowest changes at a few ratios only."""

    __slots__ = ("_places", "_starts")

    def __init__(self, prices: Sequence[Price]) -> None:
        """`prices`: one at least, none of them negative."""
        envelope: list[Price] = []
        self._starts: list[float] = []
        """The ratios from which on the second price of the envelope, the third and so on are the lowest."""
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
        """The places in `prices` of the lowest price at this ratio."""
        return self._places[bisect(self._starts, ratio)]


def _crossing(dear_out: Price, dear_in: Price) -> float:
    """At which ratio both cost the same."""
    return (dear_in[0] - dear_out[0]) / (dear_out[1] - dear_in[1])
