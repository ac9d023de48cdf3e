"""How long an answer is good, and what must not change meanwhile."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from gatehook import Call, Catalog, Target

__all__ = ["Lifetimes"]

_REMEMBERED: Final = 1_000
"""Names whose deployments are remembered: clients write those of wildcards."""


class Lifetimes:
    """How long the answers of each model are good, and under which keys."""

    def __init__(self, catalog: Catalog, ttl: float, models: Mapping[str, float]) -> None:
        """Times are in seconds, 0 for never; `models` by public name, aliases not among them."""
        self._catalog = catalog
        self._ttl = ttl
        self._models = models
        self._fingerprints: dict[str, tuple[Sequence[Target], bytes]] = {}
        """By the name of a model: its deployments, and the fingerprint made of them."""

    def of(self, call: Call) -> float:
        """For how many seconds an answer to this call is good; 0 if it shall not be kept."""
        return self._models.get(self._catalog.canonical(call.model), self._ttl) if self._models else self._ttl

    def key(self, key: bytes, call: Call) -> bytes:
        """The key with a fingerprint of the model's deployments and their settings: another one when these change.

        Redis outlives the settings, and an operator who puts another model behind a name wants that one's answers.
        """
        group = self._catalog.group(call.model)
        known = self._fingerprints.get(call.model)
        if known is None or known[0] is not group:  # the catalog replaces a group that has changed
            if len(self._fingerprints) >= _REMEMBERED:
                self._fingerprints.clear()
            known = self._fingerprints[call.model] = group, _fingerprint(group)
        return key + known[1]


def _fingerprint(group: Sequence[Target]) -> bytes:
    """A digest of what these deployments are, in whatever order; how often each is asked does not matter."""
    told = {
        json.dumps(
            [one.vendor, one.model, one.base_url, one.max_tokens, one.strict, dict(one.defaults), dict(one.options)],
            sort_keys=True,
            default=str,
        )
        for one in group
    }
    return blake2b("\n".join(sorted(told)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
