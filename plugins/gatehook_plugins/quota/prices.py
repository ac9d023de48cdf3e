"""What a request may cost: at the highest prices of all deployments that may answer it."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from gatehook import Catalog, Estimate, Group, Pricing, Target
from gatehook_plugins.quota.account import MOST, Amount, Need

__all__ = ["Prices", "Rates"]


class Rates(Struct, frozen=True):
    """Nano-dollars per 1,000 tokens: of a prompt as expected, and at most (written to a cache), and of an answer.

    `image` is of one picture.
    """

    prompt: int = 0
    prompt_most: int = 0
    completion: int = 0
    image: int = 0
    unpriced: str = ""
    """A deployment of the model itself that has no price."""
    group: Group = Group()
    """All deployments that may answer, those of fallbacks too, whose answers may be longer."""
    pricings: Sequence[Pricing] = ()
    """The prices of all these deployments, whose maxima the figures above are."""

    def most(self, size: Estimate) -> Amount:
        """What a request of this size can use."""
        prompt, answer = size.prompt_most, size.completion_most
        tokens = prompt + answer
        # Rounded up per side, as costs are.
        nano = size.images * self.image - (-prompt * self.prompt_most // 1000) - (-answer * self.completion // 1000)
        if tokens > MOST or nano > MOST:  # hardly ever
            tokens, nano = min(tokens, MOST), min(nano, MOST)
        return Amount(tokens, nano)

    def need(self, size: Estimate) -> Need:
        """What a request of this size needs."""
        prompt, answer = size.prompt, size.completion
        nano = size.images * self.image - (-prompt * self.prompt // 1000) - (-answer * self.completion // 1000)
        most = self.most(size)
        return Need(most, Amount(prompt + answer, nano).up_to(most))

    def cover(self, pricing: Pricing) -> bool:
        """Whether a pricing that is not among `pricings` is nowhere dearer than these rates."""
        is_covered = pricing.output <= self.completion and pricing.image <= self.image
        return is_covered and _dearest(pricing) <= self.prompt_most


class Prices:
    """The rates of every model, worked out when first asked for, and anew when the catalog has changed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.known: dict[str, Rates] = {}
        """By the names that the catalog lists: clients may ask for any, and memory is not theirs to fill."""
        catalog.subscribe(self.known.clear)

    def of(self, model: str) -> Rates:
        """The rates of one model, its fallbacks included; all 0 for a name the catalog does not have."""
        rates = self.known.get(model)
        return self._found(model) if rates is None else rates

    def _found(self, model: str) -> Rates:
        """Work out the rates of a model. An alias has those of its model, what a wildcard serves has the wildcard's."""
        name, groups = self._catalog.canonical(model), self._catalog.groups()
        if name not in groups:
            return Rates()
        rates = self.known.get(name) or self._work_out(groups[name])
        self.known[name] = rates
        if model in groups:
            self.known[model] = rates
        return rates

    def _work_out(self, group: Group) -> Rates:
        chain = Group(self._chain(group)) if any(target.fallbacks for target in group) else group
        priced = [target.pricing for target in chain if target.pricing is not None]
        without = (target.key for target in group if target.pricing is None)
        return Rates(
            prompt=max((pricing.input for pricing in priced), default=0),
            prompt_most=max(map(_dearest, priced), default=0),
            completion=max((pricing.output for pricing in priced), default=0),
            image=max((pricing.image for pricing in priced), default=0),
            unpriced=next(without, ""),
            group=chain,
            pricings=priced,
        )

    def _chain(self, group: Group) -> Iterator[Target]:
        """All deployments of a model, of its fallbacks, of theirs, and so on."""
        groups = [group]
        seen: set[str] = set()
        for group in groups:  # grows while it is walked
            for target in group:
                yield target
                groups += [self._catalog.group(name) for name in target.fallbacks if name not in seen]
                seen.update(target.fallbacks)


def _dearest(pricing: Pricing) -> int:
    return max(pricing.input, pricing.cached_input or 0, pricing.cache_write or 0, pricing.cache_write_1h or 0)
