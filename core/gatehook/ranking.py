"""Deployments in the order in which they are to be tried; all but the first are ranked only when asked for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final, overload

from gatehook.model import Target

__all__ = ["Ranking"]


@final
class Ranking(Sequence[Target]):
    """What a router returns that ranks many deployments: most calls never get beyond the first."""

    __slots__ = ("_all", "_first", "_others")

    def __init__(self, first: Target, others: Callable[[], Iterable[Target]]) -> None:
        """`others` gives all after the first, best first. It is called when they are asked for, and only once."""
        self._first = first
        self._others = others
        self._all: tuple[Target, ...] = ()

    def __bool__(self) -> bool:
        """True, without ranking: there is at least one."""
        return True

    def __len__(self) -> int:
        """How many there are; ranks all."""
        return len(self._ranked())

    def __iter__(self) -> Iterator[Target]:
        """Best first; ranks all."""
        return iter(self._ranked())

    @overload
    def __getitem__(self, place: int) -> Target: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Target]: ...

    def __getitem__(self, place: int | slice) -> Target | Sequence[Target]:
        """One or some of them; all but [0] ranks all."""
        return self._first if place == 0 else self._ranked()[place]

    def _ranked(self) -> tuple[Target, ...]:
        self._all = self._all or (self._first, *self._others())
        return self._all
