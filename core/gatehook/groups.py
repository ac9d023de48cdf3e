"""The deployments that answer for one name, and what is known of all of them together."""

from collections.abc import Iterable
from functools import cached_property

from gatehook.accounts import Pricing
from gatehook.model import Target

__all__ = ["Group", "tells_limits"]


class Group(tuple[Target, ...]):  # noqa: SLOT001  # cached properties need a __dict__
    """Deployments, in their order. What they have in common is worked out once, as every request asks for it."""

    @cached_property
    def context_window(self) -> int:
        """The widest, in tokens; 0 where not all of them tell theirs."""
        return _largest([target.context_window for target in self])

    @cached_property
    def max_tokens(self) -> int:
        """The longest answer, in tokens; 0 where not all of them tell theirs."""
        return _largest([target.defaults.get("max_tokens") or target.max_tokens for target in self])

    @cached_property
    def pricing(self) -> Pricing | None:
        """Of the first deployment that has prices; None if none has."""
        return next((target.pricing for target in self if target.pricing is not None), None)

    @cached_property
    def is_fit_for_all(self) -> bool:
        """Whether every call may go to each of them, as none tells any limits."""
        return all(isinstance(one, Target) and not tells_limits(one) for one in self)


def tells_limits(target: Target) -> bool:
    """Whether there may be calls that a deployment cannot serve, by what its settings tell of it."""
    return bool(target.capabilities or target.context_window or target.max_tokens)


def _largest(sizes: Iterable[int | None]) -> int:
    largest = 0
    for size in sizes:
        if size is None:
            return 0
        largest = max(largest, size)
    return largest
