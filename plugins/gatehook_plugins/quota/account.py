"""The arithmetic of caps, without any I/O: what a process may spend of a user's caps, and what it must ask for.

Three figures are kept apart. What is *booked* stands in the balances. What a process has been *granted* stands in its
lease, and all that it lets requests use is within it. Of the lease, some is *held* (reserved by running requests, or
used by ended ones that are not booked yet), and the rest is *free*: a request that fits there needs to ask nobody.

For every cap, booked + all leases <= cap, but for one request. It may be admitted though its upper bound does not fit,
if what is expected of it does. It is then held with its bound all the same, so that nothing fits beside it, and nobody
can go further: the cap can be passed only by what this one request uses beyond what was expected of it.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from gatehook import Caps, User

__all__ = ["MOST", "NOTHING", "Account", "Amount", "Decision", "Need", "Standing", "decide", "room"]

_SHARE = 16
"""At most one part in so many of what is left may lie free in a lease: other processes may need the rest."""
_IN_ADVANCE = 1000
"""A lease is asked for so many more requests of the size of the largest at hand, as far as the share allows."""
MOST = 10**15
"""Amounts are cut here: clients may ask for 10**30 tokens, and databases count to 9 * 10**18."""
_UNSEEN = User("")
"""Stands for the user of an account before one was seen; no principal has this very object."""


class Amount(Struct, frozen=True, gc=False):
    """Tokens and money (nano-dollars): the two things that are capped. Sums and comparisons go by both."""

    tokens: int = 0
    nano: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.tokens + other.tokens, self.nano + other.nano)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.tokens - other.tokens, self.nano - other.nano)

    def __bool__(self) -> bool:
        return self.tokens != 0 or self.nano != 0

    def positive(self) -> "Amount":
        """What is above zero."""
        return Amount(max(self.tokens, 0), max(self.nano, 0))

    def up_to(self, other: "Amount") -> "Amount":
        """The smaller of both, in tokens and in money."""
        return Amount(min(self.tokens, other.tokens), min(self.nano, other.nano))

    def at_least(self, other: "Amount") -> "Amount":
        """The larger of both, in tokens and in money."""
        return Amount(max(self.tokens, other.tokens), max(self.nano, other.nano))


NOTHING = Amount()
PLENTY = Amount(MOST * 1000, MOST * 1000)
"""The room where there is no cap."""


class Need(Struct, frozen=True, gc=False):
    """What one request will use at most, and what is expected of it, which is never more; all from 0 to `MOST`."""

    most: Amount
    expected: Amount

    def is_bounded_by(self, room: Amount) -> bool:
        """Whether all that it can use fits into this room. Of what it does not use at all there need not be any."""
        most = self.most
        return (most.tokens <= room.tokens or not most.tokens) and (most.nano <= room.nano or not most.nano)

    def is_expected_in(self, room: Amount) -> bool:
        """Whether what it is expected to use fits into this room."""
        most, expected = self.most, self.expected
        return (max(expected.tokens, 1) <= room.tokens or not most.tokens) and (
            max(expected.nano, 1) <= room.nano or not most.nano
        )


class Standing(Struct, frozen=True):
    """What the database says of one user at one moment: booked in all, today, this month; leased to other processes."""

    total: Amount = NOTHING
    day: Amount = NOTHING
    month: Amount = NOTHING
    others: Amount = NOTHING

    @property
    def periods(self) -> tuple[Amount, Amount, Amount]:
        """In the order of `Caps.of_tokens`."""
        return self.total, self.day, self.month


class _Purse:
    """One user's tokens, or money, as one process sees them; whole numbers, since every request counts with them.

    A request only changes what is held. The rest changes with the lease, so what follows from it is kept ready.
    """

    __slots__ = ("floor", "granted", "held", "lease", "share")

    def __init__(self) -> None:
        self.granted = 0
        """What may be held. More is held where requests used, or may use, more than was left."""
        self.held = 0
        """Reserved, or used and not yet booked."""
        self.lease = 0
        """The lease as the database has it: at least this."""
        self.share = 0
        """How much of the lease may stay free."""
        self.floor = 0
        """When less than this is held, the lease is larger than need be."""

    def change(self, granted: int, held: int, lease: int) -> None:
        """Add to what is granted, held and leased."""
        self.granted += granted
        self.held += held
        self.lease += lease
        # Of a lease within what is granted, the share may lie free; all of one that is larger must be held.
        self.floor = self.lease if self.lease > self.granted else self.granted - self.share


class Account:
    """One user, as one process sees it.

    `frozen` while the database is being asked: what is decided there counts on what is free not being used meanwhile.
    """

    __slots__ = (
        "_money",
        "_tokens",
        "caps",
        "frozen",
        "is_budgeted",
        "leased",
        "rewrite",
        "touched",
        "user",
        "user_id",
    )

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.user: User | None = _UNSEEN
        """As last seen, for what it says of caps; None: a caller whom the directory does not know."""
        self.caps = Caps()
        """As last seen."""
        self.is_budgeted = False
        """Whether they cap money."""
        self._tokens = _Purse()
        self._money = _Purse()
        self.frozen = False
        self.leased = False
        """Whether there was a lease when the database was last told."""
        self.rewrite = False
        """Whether the lease is to be written anew: it can be smaller, or caps have changed."""
        self.touched = False
        """Whether a request was admitted since the last sweep."""

    @property
    def free(self) -> Amount:
        """What is granted and not held; below zero where requests hold more than was left."""
        tokens, money = self._tokens, self._money
        return Amount(tokens.granted - tokens.held, money.granted - money.held)

    @property
    def held(self) -> Amount:
        """Reserved, or used and not yet booked."""
        return Amount(self._tokens.held, self._money.held)

    @property
    def share(self) -> Amount:
        """How much of the lease may stay free."""
        return Amount(self._tokens.share, self._money.share)

    def see(self, caps: Caps) -> None:
        """Go by these caps from now on."""
        self.caps = caps
        self.is_budgeted = caps.has_budget

    def reserve(self, most: Amount) -> bool:
        """Admit a request within the lease, if its bound fits."""
        purse, money, tokens, nano = self._tokens, self._money, most.tokens, most.nano
        held, held_nano = purse.held + tokens, money.held + nano
        if self.frozen or (held > purse.granted and tokens) or (held_nano > money.granted and nano):
            return False
        purse.held, money.held = held, held_nano
        self.touched = True
        return True

    def exchange(self, old: Amount, most: Amount) -> bool:
        """Admit a request with another bound within the lease. If that does not fit, nothing of it is held any more."""
        self._tokens.held -= old.tokens
        self._money.held -= old.nano
        return self.reserve(most)

    def settle(self, most: Amount, tokens: int, nano: int) -> None:
        """A request has ended: instead of its bound, hold what it used until that is booked."""
        purse, money = self._tokens, self._money
        purse.held = held = purse.held - most.tokens + tokens
        money.held = held_nano = money.held - most.nano + nano
        if held < purse.floor or held_nano < money.floor:
            self.rewrite = True

    def booked(self, used: Amount, rows: Amount) -> None:
        """Note that `rows` are in the balances and out of the lease; `used` is what was held for them."""
        self._tokens.change(-rows.tokens, -used.tokens, -rows.tokens)
        self._money.change(-rows.nano, -used.nano, -rows.nano)

    def give_up(self) -> None:
        """Give back what is free of the lease: at once here, in the database when the lease is written next."""
        for purse in (self._tokens, self._money):
            purse.change(min(purse.held - purse.granted, 0), 0, 0)
        self.rewrite = True

    def decided(self, decision: "Decision", waiting: Sequence[Need]) -> None:
        """Take over a decision: the lease, and what those who waited may hold. What happened here meanwhile is kept."""
        asked = sum((need.most for need, admitted in zip(waiting, decision.admitted, strict=True) if admitted), NOTHING)
        self.touched = self.touched or any(decision.admitted)
        tokens, money, lease = self._tokens, self._money, decision.lease
        tokens.share, money.share = decision.share.tokens, decision.share.nano
        tokens.change(asked.tokens + decision.change.tokens, asked.tokens, lease.tokens - tokens.lease)
        money.change(asked.nano + decision.change.nano, asked.nano, lease.nano - money.lease)
        self.leased = bool(lease)
        self.settle(NOTHING, 0, 0)

    @property
    def is_lying_idle(self) -> bool:
        """Whether something is leased that no request holds."""
        return bool(self.free.positive() or (self.leased and not self.held))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is running, unbooked, leased or to be written."""
        return not (self.held or self.leased or self.frozen or self.rewrite)


class Decision(Struct, frozen=True):
    """What becomes of one account's lease, and of those who wait for it."""

    admitted: Sequence[bool]
    """For each request that waits, whether it may go on."""
    lease: Amount
    """The lease for the database. Never less than the account might use, should this decision not be heard of."""
    change: Amount
    """What is to be added to `Account.free`."""
    share: Amount
    """How much of the lease may stay free."""


def room(caps: Caps, standing: Standing, held: Amount = NOTHING) -> Amount:
    """What is left of all caps together; below zero where more is used or reserved."""
    taken = standing.others + held
    tokens = _left(caps.of_tokens, (booked.tokens for booked in standing.periods), PLENTY.tokens)
    nano = _left(caps.of_money, (booked.nano for booked in standing.periods), PLENTY.nano)
    return Amount(tokens - taken.tokens, nano - taken.nano)


def _left(caps: Iterable[int | None], booked: Iterable[int], most: int) -> int:
    return min((cap - used for cap, used in zip(caps, booked, strict=True) if cap is not None), default=most)


def decide(caps: Caps, standing: Standing, account: Account, waiting: Sequence[Need]) -> Decision:
    """Admit as many as may be of those who wait, in their order, and take a little in advance while there is plenty.

    The lease that results is within the room, but for one request that goes beyond it, and for what the account had
    free and may not keep: that is given back by the next decision, once this one is known to be committed.
    """
    left = room(caps, standing, account.held)
    kept, asked, largest = account.free.positive(), NOTHING, NOTHING
    admitted = []
    for need in waiting:
        fits = need.is_bounded_by(left) or need.is_expected_in(left)
        admitted.append(fits)
        if fits:
            left -= need.most
            asked += need.most
            largest = largest.at_least(need.most)
    share = Amount(left.tokens // _SHARE, left.nano // _SHARE).positive()
    advance = Amount(largest.tokens * _IN_ADVANCE, largest.nano * _IN_ADVANCE).up_to(Amount(MOST, MOST))
    free = left.up_to(share).up_to(advance.at_least(kept - asked))
    lease = account.held + (asked + free.positive()).at_least(kept)
    return Decision(admitted, lease, free - account.free, share)
