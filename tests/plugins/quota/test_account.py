"""The arithmetic, against a model of the database, with everything between two steps that can come there.

Schedules are drawn at random, with weights that make requests come, run and end; hypothesis draws the seeds.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from gatehook import Caps
from gatehook_plugins.quota.account import NOTHING, Account, Amount, Decision, Need, Standing, decide

PROCESSES = 3
STEPS = 400
FIELDS = ("tokens", "nano")


def of(amount: Amount, dimension: int) -> int:
    return amount.nano if dimension else amount.tokens


def need_of(expected: Amount, most: Amount) -> Need:
    return Need(most, expected)


class Request:
    def __init__(self, need: Need) -> None:
        self.need = need
        self.used = NOTHING
        self.day = 0
        self.is_booked = False


class Round(Struct):
    """A transaction of the broker that the database has decided, and whose end the process has not heard of."""

    waiting: list[Request]
    decision: Decision
    heard: bool


class Process:
    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.account = Account("u")
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.ended: list[Request] = []
        """Not known to be booked."""
        self.round: Round | None = None
        self.twice = NOTHING
        """What was booked when the lease was last set, and still counted as held, for nobody had heard of it."""
        self.posting: list[Request] | None = None
        self.posted_heard = True


class World:
    """One user, several processes, one database."""

    def __init__(self, seed: int, *, changes: bool) -> None:
        self.random = random.Random(seed)
        self.owners = 0
        self.processes = [self.new() for _ in range(PROCESSES)]
        self.dead: list[Process] = []
        self.day = 0
        self.balances: Counter[tuple[object, int]] = Counter()
        """By period and dimension: what the database says."""
        self.used: Counter[tuple[object, int]] = Counter()
        """The same: what is true."""
        self.leases: dict[int, Amount] = {}
        self.error = [0, 0]
        """The largest that one request used beyond what was expected of it."""
        self.allowed: dict[tuple[int, int], int] = {}
        self.lowered = False
        self.beyond = self.random.choice([0, 5, 20])
        self.largest = self.random.choice([2, 5, 20])
        self.caps = self.some_caps()
        self.allow()
        self.actions: dict[Any, float] = {
            self.ask: 16,
            self.transact: 12,
            self.hear: 12,
            self.end: 12,
            self.post: 4,
            self.posted: 4,
            self.sweep: 1,
            self.crash: 0.5,
            self.adopt: 1,
            self.midnight: 0.5,
        }
        if changes:
            self.actions[self.change_caps] = 2

    def run(self) -> None:
        kinds, weights = list(self.actions), list(self.actions.values())
        for action in self.random.choices(kinds, weights, k=STEPS):
            action(self.random.choice(self.processes))
            self.check()
        self.finish()

    def new(self) -> Process:
        self.owners += 1
        return Process(self.owners)

    def some_caps(self) -> Caps:
        set_ = self.random.sample(range(6), self.random.choice([1, 1, 1, 2]))
        some = (0, 30, 60, 100, 100, 300, 300, 2000)
        return Caps(*(self.random.choice(some) if at in set_ else None for at in range(6)))

    # what the machine knows

    def periods(self, day: int) -> tuple[object, object, object]:
        return "all", ("day", day), ("month", day // 3)

    def limits(self) -> list[tuple[int, int, int]]:
        """(dimension, period's place, cap) of all caps."""
        both = (self.caps.of_tokens, self.caps.of_money)
        return [(d, place, cap) for d in (0, 1) for place, cap in enumerate(both[d]) if cap is not None]

    def used_now(self, dimension: int, place: int) -> int:
        return self.used[self.periods(self.day)[place], dimension]

    def allow(self) -> None:
        """Caps have changed, or a day has begun: what was granted before may still be used."""
        for dimension, place, cap in self.limits():
            granted = self.used_now(dimension, place) + sum(of(lease, dimension) for lease in self.leases.values())
            self.allowed[dimension, place] = max(cap, granted) if self.lowered else cap

    def standing(self, process: Process) -> Standing:
        total, day, month = (
            Amount(self.balances[period, 0], self.balances[period, 1]) for period in self.periods(self.day)
        )
        others = NOTHING
        for owner, lease in self.leases.items():
            if owner != process.owner:
                others += lease
        return Standing(total, day, month, others)

    def how_it_ends(self) -> str:
        return self.random.choices(["committed", "failed", "unheard"], [8, 1, 1])[0]

    # what may happen

    def ask(self, process: Process) -> None:
        draw = self.random.randint
        largest = self.random.choice([1, self.largest])
        expected = Amount(draw(0, largest), draw(0, largest))
        request = Request(need_of(expected, expected + Amount(draw(0, self.beyond), draw(0, self.beyond))))
        if process.account.reserve(request.need.most):
            process.running.append(request)
        else:
            process.waiting.append(request)

    def transact(self, process: Process) -> None:
        if process.round or not (process.waiting or process.account.rewrite):
            return
        ends = self.how_it_ends()
        waiting, process.waiting = process.waiting, []
        decision = decide(self.caps, self.standing(process), process.account, [one.need for one in waiting])
        process.account.frozen, process.account.rewrite = True, False
        if ends != "failed":
            self.leases[process.owner] = decision.lease
            process.twice = self.unheard(process)
            self.check_refusals(waiting, decision)
        process.round = Round(waiting, decision, heard=ends == "committed")

    def hear(self, process: Process) -> None:
        account, ended = process.account, process.round
        if ended is None:
            return
        process.round = None
        account.frozen = False
        if not ended.heard:
            account.rewrite = True
            return
        account.decided(ended.decision, [request.need for request in ended.waiting])
        for request, admitted in zip(ended.waiting, ended.decision.admitted, strict=True):
            if admitted:
                process.running.append(request)

    def end(self, process: Process) -> None:
        if not process.running:
            return
        request = process.running.pop(self.random.randrange(len(process.running)))
        share = self.random.choice([1.0, 1.0, 1.0, 0.9, 0.5, 0.0])
        used = Amount(round(request.need.most.tokens * share), round(request.need.most.nano * share))
        process.account.settle(request.need.most, used.tokens, used.nano)
        self.record(process, request, used)

    def record(self, process: Process, request: Request, used: Amount) -> None:
        process.ended.append(request)
        request.used, request.day = used, self.day
        beyond = used - request.need.expected
        for dimension in (0, 1):
            self.error[dimension] = max(self.error[dimension], of(beyond, dimension))
            for period in self.periods(self.day):
                self.used[period, dimension] += of(used, dimension)

    def post(self, process: Process) -> None:
        if process.posting is not None or not process.ended:
            return
        ends = self.how_it_ends()
        process.posting, process.posted_heard = list(process.ended), ends == "committed"
        if ends != "failed":
            for request in self.book(process.posting):
                self.leases[process.owner] = (self.leases.get(process.owner, NOTHING) - request.used).positive()

    def book(self, requests: list[Request]) -> list[Request]:
        """Those that were not booked before."""
        fresh = [request for request in requests if not request.is_booked]
        for request in fresh:
            request.is_booked = True
            for period in self.periods(request.day):
                for dimension in (0, 1):
                    self.balances[period, dimension] += of(request.used, dimension)
        return fresh

    def posted(self, process: Process) -> None:
        if process.posting is None:
            return
        if process.posted_heard:
            for request in process.posting:
                process.account.booked(request.used, request.used)
                process.ended.remove(request)
        process.posting = None

    def sweep(self, process: Process) -> None:
        if process.account.is_lying_idle and not process.account.frozen:
            process.account.give_up()

    def crash(self, process: Process) -> None:
        self.processes[self.processes.index(process)] = self.new()
        for request in process.running:
            self.record(process, request, request.need.expected)
        self.dead.append(process)

    def adopt(self, _: Process) -> None:
        if self.dead:
            process = self.dead[0]
            self.book(process.ended)
            if self.random.random() < 0.5:  # or the adopter dies, too
                self.leases.pop(process.owner, None)
                self.dead.remove(process)

    def midnight(self, _: Process) -> None:
        self.day += 1
        self.allow()

    def change_caps(self, _: Process) -> None:
        self.caps = self.some_caps()
        self.lowered = True
        self.allow()
        for process in self.processes:
            process.account.rewrite = True

    # what must hold

    def check(self) -> None:
        for dimension, place, _ in self.limits():
            most = self.allowed[dimension, place] + max(self.error[dimension], 0)
            assert self.used_now(dimension, place) <= most, "a cap is passed by more than one request's error"
        for process in self.processes:
            if not process.round:
                self.check_lease(process)

    def unheard(self, process: Process) -> Amount:
        return sum((one.used for one in process.ended if one.is_booked), NOTHING)

    def check_lease(self, process: Process) -> None:
        """The database knows of all that a process might still use, but for what was used beyond the cap; and of
        nothing else, if it is not about to be told."""
        account, lease = process.account, self.leases.get(process.owner, NOTHING)
        might = account.held - self.unheard(process) + account.free.positive()
        for dimension in (0, 1):
            assert of(might, dimension) <= of(lease, dimension) + max(-of(account.free, dimension), 0)
            if not account.rewrite:
                assert of(account.free, dimension) <= of(account.share, dimension)
                assert of(lease, dimension) <= of(might, dimension) + of(process.twice, dimension)

    def check_refusals(self, waiting: list[Request], decision: Decision) -> None:
        """Who is well under every cap is not refused: what others took in advance is a small part of it."""
        if self.lowered or self.dead or all(decision.admitted):
            return
        asked = sum((one.need.most for one in waiting), NOTHING)
        for process in self.processes:
            lease, free = self.leases.get(process.owner, NOTHING), process.account.free.positive()
            may_keep = not (process.round or process.account.rewrite)  # the database is not about to be told
            asked += process.account.held.at_least(lease - free if may_keep else lease)
        assert any(
            self.used_now(dimension, place) + of(asked, dimension) + 1 > cap * (16 - PROCESSES) // 16
            for dimension, place, cap in self.limits()
        ), "somebody well under the caps was refused"

    def finish(self) -> None:
        """When all has ended, everything is booked once, and nothing is leased."""
        self.random.choices = lambda kinds, weights=None, k=1: [kinds[0]]  # type: ignore[method-assign, assignment, misc]
        while self.dead:
            self.adopt(self.processes[0])
        for process in self.processes:
            for _ in range(4):
                self.posted(process)
                self.hear(process)
                while process.running:
                    self.end(process)
                self.post(process)
                self.posted(process)
                self.sweep(process)
                self.transact(process)
            assert process.account.is_empty
            assert not process.account.held
            assert not self.leases.get(process.owner)
        assert self.balances == self.used


@pytest.mark.parametrize("changes", [False, True])
@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_no_interleaving_of_requests_failures_and_crashes_passes_a_cap(changes: bool, seed: int) -> None:
    World(seed, changes=changes).run()


def need(expected: int, most: int) -> Need:
    return need_of(Amount(expected), Amount(most))


def admitted(account: Account, caps: Caps, *needs: Need) -> Sequence[bool]:
    decision = decide(caps, Standing(), account, needs)
    account.decided(decision, needs)
    return decision.admitted


def test_what_a_request_was_granted_beyond_the_cap_is_nobody_elses() -> None:
    account, caps, large = Account("u"), Caps(tokens=100), need(90, 130)
    assert admitted(account, caps, large) == [True]
    account.settle(large.most, 95, 0)
    assert account.free.tokens == 5
    assert account.rewrite
    assert not account.reserve(Amount(6))
    assert account.reserve(Amount(5))


def test_only_one_request_at_a_time_may_go_beyond_a_cap() -> None:
    account, caps = Account("u"), Caps(tokens=100)
    assert admitted(account, caps, need(10, 101), need(1, 1), need(0, 5)) == [True, False, False]
    account.settle(need(10, 101).most, 99, 0)
    assert admitted(account, caps, need(1, 500), need(1, 1)) == [True, False]


def test_while_the_database_is_asked_nothing_is_admitted_without() -> None:
    account = Account("u")
    admitted(account, Caps(tokens=10_000), need(10, 10))
    assert account.reserve(Amount(1))
    account.frozen = True
    assert not account.reserve(Amount(1))


def test_a_request_that_costs_nothing_passes_a_budget_that_is_used_up() -> None:
    account, caps = Account("u"), Caps(budget=0)
    assert admitted(account, caps, need_of(Amount(5), Amount(9)), need_of(Amount(5), Amount(9, 1))) == [True, False]


def test_no_more_than_a_share_of_what_is_left_is_taken_in_advance() -> None:
    account = Account("u")
    admitted(account, Caps(tokens=10**6), need(10, 10))
    assert account.free.tokens == 10_000  # as for a thousand more
    other = Account("u")
    admitted(other, Caps(tokens=170), need(10, 10))
    assert other.free.tokens == 10  # a sixteenth of 160
