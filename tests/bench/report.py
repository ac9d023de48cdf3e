"""From samples to figures, ratios, aims and a table."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench.load import Sample

MICRO = 1e6
MEGA = 1e6
MEMORY_LIMIT = 80 * MEGA
GROWTH_LIMIT = 1 * MEGA  # what an allocator may keep without anything having leaked
YARDSTICK = "bare"
BASELINE = "direct"


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def per_second(sample: Sample) -> float:
    return sample.count / sample.elapsed


def cpu_each(sample: Sample) -> float | None:
    """CPU microseconds per answer; `None` for a contestant whose process is not ours to read."""
    return sample.cpu / sample.count * MICRO if sample.cpu else None


def p50(sample: Sample) -> float:
    return percentile(sample.latencies, 0.50) * MICRO


def p99(sample: Sample) -> float:
    return percentile(sample.latencies, 0.99) * MICRO


def first_byte(sample: Sample) -> float:
    return percentile(sample.first_bytes, 0.50) * MICRO


def gap_p99(sample: Sample) -> float:
    return percentile(sample.gaps, 0.99) * MICRO


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: a number from each sample of a scenario, or what it adds to that of `direct`."""

    key: str
    title: str
    scenario: str
    of: Callable[[Sample], float | None]
    added: bool = False


FIGURES = (
    Figure("rps_c1", "requests/s, 1 connection", "c1", per_second),
    Figure("rps_c16", "requests/s, 16 connections", "c16", per_second),
    Figure("rps_c64", "requests/s, 64 connections", "c64", per_second),
    Figure("cpu_c1", "CPU us per request, 1 connection", "c1", cpu_each),
    Figure("cpu_c16", "CPU us per request, 16 connections", "c16", cpu_each),
    Figure("cpu_c64", "CPU us per request, 64 connections", "c64", cpu_each),
    Figure("p50_rate", "p50 us at {rate:g} requests/s", "rate", p50),
    Figure("p99_rate", "p99 us at {rate:g} requests/s", "rate", p99),
    Figure("added_p50", "added p50 us at {rate:g} requests/s", "rate", p50, added=True),
    Figure("added_p99", "added p99 us at {rate:g} requests/s", "rate", p99, added=True),
    Figure("streams", "streams/s, burst, 16 connections", "burst", per_second),
    Figure("cpu_burst", "CPU us per stream, burst", "burst", cpu_each),
    Figure("cpu_paced", "CPU us per stream, 10 ms apart, 64 at once", "paced", cpu_each),
    Figure("first_paced", "first byte p50 us, 2 streams at once", "first", first_byte),
    Figure("gap_crowd", "gap p99 us, 20 ms apart, 500 at once", "crowd", gap_p99),
    Figure("cpu_tls", "CPU us per request, to a vendor over TLS", "tls", cpu_each),
    Figure("rps_tls", "requests/s, to a vendor over TLS", "tls", per_second),
    Figure("cpu_anthropic", "CPU us per request, to Anthropic", "anthropic", cpu_each),
    Figure("cpu_gemini", "CPU us per request, to Gemini", "gemini", cpu_each),
)


Side = tuple[str, str]
"""Whose figure: a contestant, and the figure's key."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What `mine` is to be, at most, of `theirs`: so many times, or, if `added`, so many microseconds more.

    `at_least` turns it round. It is told where both are among the contestants.
    """

    text: str
    mine: Side
    theirs: Side
    limit: float
    at_least: bool = False
    added: bool = False


PROMISES = (
    *[
        Promise(f"CPU per plain request, {connections} connections", ("accounts", key), ("bare", key), 0.65)
        for key, connections in (("cpu_c16", 16), ("cpu_c64", 64))
    ],
    *[
        Promise(f"requests/s, {connections} connections", ("accounts", key), ("bare", key), 1.6, at_least=True)
        for key, connections in (("rps_c16", 16), ("rps_c64", 64))
    ],
    Promise("CPU per stream, at full speed", ("accounts", "cpu_burst"), ("bare", "cpu_burst"), 1.0),
    Promise("CPU per stream, 10 ms apart", ("accounts", "cpu_paced"), ("bare", "cpu_paced"), 1.0),
    Promise("first byte of a stream", ("accounts", "first_paced"), ("bare", "first_paced"), 200, added=True),
    Promise("gap p99, 500 streams", ("accounts", "gap_crowd"), ("", ""), 3 * 20_000, added=True),
    Promise("CPU per request over TLS", ("accounts", "cpu_tls"), ("bare", "cpu_tls"), 0.65),
    Promise("CPU per request to Anthropic", ("accounts", "cpu_anthropic"), ("accounts", "cpu_c16"), 2.5),
    Promise("CPU per request to Gemini", ("accounts", "cpu_gemini"), ("accounts", "cpu_c16"), 2.5),
    Promise("CPU per plain request, 16 connections", ("accounts", "cpu_c16"), ("gatehook", "cpu_c16"), 1.5),
    Promise("p50 at a fixed rate", ("accounts", "p50_rate"), ("nginx", "p50_rate"), 250, added=True),
    Promise("CPU per plain request, 16 connections", ("accounts", "cpu_c16"), ("tensorzero", "cpu_c16"), 1.0),
    Promise("CPU per plain request, 16 connections", ("accounts", "cpu_c16"), ("sglang", "cpu_c16"), 1.0),
    Promise("requests/s, 16 connections", ("accounts", "rps_c16"), ("litellm", "rps_c16"), 80, at_least=True),
)
"""With accounts on, against others with nothing on."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A promise, what was found, and whether it holds."""

    text: str
    found: str
    holds: bool


@dataclass(slots=True)
class Results:
    """Everything measured. The samples of one round were taken right after each other."""

    contestants: list[str]
    rate: float
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # contestant: (requests, bytes), …

    def add(self, scenario: str, contestant: str, sample: Sample) -> None:
        self.samples[scenario, contestant].append(sample)

    def rounds(self, figure: Figure, contestant: str) -> list[float]:
        """The figure of every round."""
        values = [figure.of(sample) for sample in self.samples.get((figure.scenario, contestant), [])]
        known = [value for value in values if value is not None]
        if not figure.added:
            return known
        base = [figure.of(sample) or 0.0 for sample in self.samples.get((figure.scenario, BASELINE), [])]
        return [] if contestant == BASELINE else [value - zero for value, zero in zip(known, base, strict=False)]

    def value(self, figure: Figure, contestant: str) -> float | None:
        values = self.rounds(figure, contestant)
        return statistics.median(values) if values else None

    def ratio(self, figure: Figure, contestant: str) -> float | None:
        """To the bare proxy's figure."""
        return self.compared((contestant, figure.key), (YARDSTICK, figure.key))

    def compared(self, mine: Side, theirs: Side, *, added: bool = False) -> float | None:
        """The median of the rounds' ratios or differences: steadier on a noisy machine than those of the medians."""
        figures = {figure.key: figure for figure in FIGURES}
        values = self.rounds(figures[mine[1]], mine[0])
        others = self.rounds(figures[theirs[1]], theirs[0]) if theirs[0] else [0.0] * len(values)
        pairs = [(one, other) for one, other in zip(values, others, strict=False) if added or other > 0]
        found = [one - other if added else one / other for one, other in pairs]
        return statistics.median(found) if found else None


def near_direct(results: Results, share: float) -> list[str]:
    """The contestants whose requests/s come that near to those without any gateway."""
    (figure,) = (figure for figure in FIGURES if figure.key == "rps_c16")
    most = results.value(figure, BASELINE)
    others = [name for name in results.contestants if name != BASELINE]
    return [name for name in others if most and (results.value(figure, name) or 0.0) > share * most]


def table(results: Results) -> str:
    """Figures down, contestants across, ratios to the bare proxy on the right."""
    rated = [name for name in results.contestants if name != YARDSTICK and YARDSTICK in results.contestants]
    rows = [["", *results.contestants, *[f"{name}/{YARDSTICK}" for name in rated]]]
    for figure in FIGURES:
        values = [show(results.value(figure, name)) for name in results.contestants]
        ratios = [show(results.ratio(figure, name), "{:.2f}") for name in rated]
        rows.append([figure.title.format(rate=results.rate), *values, *ratios])
    return aligned(rows)


def memory_table(results: Results) -> str:
    rows = [["memory in MB"]]
    for name, readings in results.memory.items():
        rows[0] = ["memory in MB", *["idle" if not count else f"{count:,} requests" for count, _ in readings]]
        rows.append([name, *[show(size / MEGA, "{:.1f}") for _, size in readings]])
    return aligned(rows)


def show(value: float | None, form: str = "") -> str:
    if value is None:
        return "-"
    return (form or ("{:,.0f}" if abs(value) >= 1000 else "{:,.1f}")).format(value)


def aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]]
        )
        for row in rows
    )


def aims(results: Results, subject: str) -> list[Aim]:
    """The promises that this run has the numbers for; memory is that of `subject`."""
    found = [aim for promise in PROMISES if (aim := _judged(results, promise)) is not None]
    return found + memory_aims(results.memory.get(subject, []))


def _judged(results: Results, promise: Promise) -> Aim | None:
    value = results.compared(promise.mine, promise.theirs, added=promise.added)
    if value is None:
        return None
    holds = value >= promise.limit if promise.at_least else value <= promise.limit
    bound = f"{promise.mine[0]}: {promise.text} {'at least' if promise.at_least else 'at most'}"
    other = promise.theirs[0] if promise.theirs[1] in ("", promise.mine[1]) else "the same dialect's"
    if not promise.added:
        return Aim(f"{bound} {promise.limit:g} x {other}", f"{value:.2f}", holds)
    more = f"{promise.limit / 1000:g} ms" + (f" more than {other}" if other else "")
    return Aim(f"{bound} {more}", f"{value / 1000:.2f} ms", holds)


def memory_aims(readings: list[tuple[int, int]]) -> list[Aim]:
    """Memory is judged from 10,000 requests on: before, pools and caches are still filling."""
    warm = [(count, size) for count, size in readings if count >= 10_000]
    if not warm:
        return []
    (count, first), (total, last) = warm[0], warm[-1]
    found = [
        Aim(
            f"memory under {MEMORY_LIMIT / MEGA:.0f} MB after {count:,} requests",
            f"{first / MEGA:.1f} MB",
            first < MEMORY_LIMIT,
        )
    ]
    if total > count:
        grown = last - first
        found.append(Aim(f"no growth from there to {total:,}", f"{grown / MEGA:+.1f} MB", grown <= GROWTH_LIMIT))
    return found


def summary(results: Results) -> dict[str, object]:
    """The figures as plain data, every round included."""
    return {
        name: {
            "figures": {
                figure.key: {"median": results.value(figure, name), "rounds": results.rounds(figure, name)}
                for figure in FIGURES
            },
            "ratio_to_bare": {figure.key: results.ratio(figure, name) for figure in FIGURES},
            "memory_bytes": dict(results.memory.get(name, [])),
        }
        for name in results.contestants
    }
