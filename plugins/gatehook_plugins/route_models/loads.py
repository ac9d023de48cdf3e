"""What this process sees of each deployment: how many requests it has running there, and how fast it answers."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import repeat

from gatehook import AttemptLimiter, Busy, Call, Outcome, Permit, Target
from gatehook_plugins.route_models.latencies import Latencies

__all__ = ["Loads"]


class Loads:
    """Measures attempts while `is_measuring` is set. A limiter that admits all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.is_measuring = False
        self.running: Counter[str] = Counter()
        """The numbers of running attempts, by the keys of their deployments."""
        self.vendors: Callable[[], Mapping[str, object]] = dict
        """Gives the vendors by name. Not to be called before all plugins have registered theirs."""
        self._clock = clock
        self._plain = Latencies(self.running)
        self._streamed = Latencies(self.running)

    def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """Begin to measure an attempt; its end settles the permit."""
        if not self.is_measuring:
            return None
        self.running[target.key] += 1
        self._plain.began(target.key)
        self._streamed.began(target.key)
        return _Running(self, call, target.key, self._clock())

    def ended(self, call: Call, key: str, began: float, outcome: Outcome) -> None:
        """Note that an attempt is over, one way or the other."""
        now, latencies = self._clock(), self._streamed if call.stream else self._plain
        if outcome.status in ("complete", "partial"):
            # The call's clock is the monotonic one too: what came first came from the attempt that answered.
            first = call.first_token if call.stream else None
            latencies.answered(key, max(0.0, (now if first is None else first) - began), now)
        elif outcome.http_status >= 500 or outcome.http_status == 429:
            latencies.failed(key, now - began, now)
        self.running[key] -= 1
        if not self.running[key]:
            del self.running[key]
            self._plain.ended(key)
            self._streamed.ended(key)

    def busy(self, targets: Sequence[Target], keys: Sequence[str]) -> list[int]:
        """How many requests each deployment has to answer: of this process, and of others if its vendor knows of those.

        `keys` are the deployments' keys.
        """
        mine = list(map(self.running.get, keys, repeat(0)))
        if not self._waiting:
            return mine
        told = [self._waiting[target.vendor](target) if target.vendor in self._waiting else 0 for target in targets]
        return list(map(max, mine, told))

    @cached_property
    def _waiting(self) -> Mapping[str, Callable[[Target], int]]:
        """The `waiting` of each vendor that is a `Busy`, by name."""
        return {name: vendor.waiting for name, vendor in self.vendors().items() if isinstance(vendor, Busy)}

    def latencies(self, keys: Sequence[str], *, stream: bool) -> list[float]:
        """Seconds until each of these deployments answers: 0 for one that is to be tried out, inf while it is."""
        return (self._streamed if stream else self._plain).of(keys, self._clock())


class _Running:
    """The permit of one attempt."""

    __slots__ = ("_began", "_call", "_key", "_loads")

    def __init__(self, loads: Loads, call: Call, key: str, began: float) -> None:
        self._loads, self._call, self._key, self._began = loads, call, key, began

    def settle(self, outcome: Outcome) -> None:
        """It is over."""
        self._loads.ended(self._call, self._key, self._began, outcome)


_implements: tuple[type[AttemptLimiter], type[Permit]] = (Loads, _Running)
