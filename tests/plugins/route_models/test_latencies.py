import math
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatehook_plugins.route_models.latencies import Latencies

KEYS = ("a#1", "a#2", "a#3")


class Reference:
    """The same, worked out anew at each look."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[float, float]] = {}

    def mean(self, key: str, now: float) -> float | None:
        seconds, until = self.known.get(key, (0.0, -1.0))
        return seconds if until >= now else None

    def learn(self, key: str, seconds: float, now: float) -> None:
        mean = self.mean(key, now)
        self.known[key] = (seconds if mean is None else mean + 0.3 * (seconds - mean), now + 60.0)


class Agreement(RuleBasedStateMachine):
    """Attempts begin and end, time passes: what is kept is what would be worked out."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.running: Counter[str] = Counter()
        self.latencies, self.reference = Latencies(self.running), Reference()

    @rule(seconds=st.sampled_from((0.0, 1.0, 20.0, 60.0, 61.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.sampled_from(KEYS))
    def begin(self, key: str) -> None:
        self.running[key] += 1
        self.latencies.began(key)

    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from((0.0, 0.5, 3.0)), end=st.sampled_from("asc"))
    def end(self, key: str, seconds: float, end: str) -> None:
        if not self.running[key]:
            return
        if end == "a":
            self.latencies.answered(key, seconds, self.now)
            self.reference.learn(key, seconds, self.now)
        elif end == "s":
            mean = self.reference.mean(key, self.now)
            self.latencies.failed(key, seconds, self.now)
            self.reference.learn(key, max(seconds, 10.0 if mean is None else min(2 * mean, 60.0)), self.now)
        self.running[key] -= 1
        if not self.running[key]:
            del self.running[key]
            self.latencies.ended(key)

    @invariant()
    def agrees(self) -> None:
        expected = [
            mean if (mean := self.reference.mean(key, self.now)) is not None else math.inf if self.running[key] else 0.0
            for key in KEYS
        ]
        self.running += Counter()  # without those that were only looked at
        assert self.latencies.of(KEYS, self.now) == expected


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_no_more_deployments_are_remembered_than_ten_thousand() -> None:
    latencies = Latencies(running := {"m#0"})
    for number in range(10_001):
        latencies.answered(f"m#{number}", 1.0, 0.0)
    assert latencies.of(["m#0", "m#1", "m#10000"], 0.0) == [math.inf, 1.0, 1.0]
    running.clear()
    latencies.ended("m#0")
    assert latencies.of(["m#0"], 0.0) == [0.0]
