"""Session affinity: keeps a session at one deployment, which may still have in its cache what was said before."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from gatehook import ANONYMOUS, Call, Ranking, Target
from gatehook_plugins.route_models.strategies.base import by_score
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["HEADER", "Affinity"]

HEADER: Final = "header:"
"""What comes before the name of the header that names the session."""
_REMEMBERED: Final = 10_000
"""Sessions whose order is kept."""


class Affinity:
    """Weighted rendezvous hashing: each session ranks the deployments by chance and weight, but always in the same way.

    A deployment that comes or goes moves only the sessions that are, or were, its own. All processes agree.
    """

    def __init__(self, by: str) -> None:
        """`by` is "user", or "header:" and a name."""
        self._header = by.removeprefix(HEADER) if by.startswith(HEADER) else ""
        self._orders: OrderedDict[tuple[Tier, bytes], tuple[Target, ...]] = OrderedDict()

    def session(self, call: Call) -> bytes | None:
        """16 bytes that tell a session of this caller from all others; None if the call names none."""
        name = call.principal.id
        if not self._header:
            return None if call.principal is ANONYMOUS else _digest(name)
        said = call.headers.get(self._header)
        return _digest(f"{name}\0{said}") if said else None

    def order(self, tier: Tier, session: bytes) -> Sequence[Target]:
        """The deployments as this session ranks them."""
        orders, which = self._orders, (tier, session)
        if (order := orders.get(which)) is None:
            scores = [
                _score(session, target.key) / weight for target, weight in zip(tier.targets, tier.weights, strict=True)
            ]
            order = orders[which] = tuple(by_score(tier.targets, scores))
            if len(orders) > _REMEMBERED:
                orders.popitem(last=False)
        else:
            orders.move_to_end(which)
        return Ranking(order[0], lambda: order[1:])

    def forget(self) -> None:
        """Forget all orders: the tiers have been replaced."""
        self._orders.clear()


def _score(session: bytes, key: str) -> float:
    """An exponentially distributed number, drawn from the hash of both.

    Divided by weights, such numbers rank by weighted chance; see Efraimidis and Spirakis, 2006.
    """
    drawn = int.from_bytes(blake2b(session + key.encode(), digest_size=8).digest()) + 1
    return -math.log(drawn / 2**64 if drawn < 2**64 else math.nextafter(1.0, 0.0))


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
