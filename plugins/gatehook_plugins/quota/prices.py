"""What a request may cost: by the dearest of all deployments that it may come to."""

from collections.abc import Iterator

from msgspec import Struct

from gatehook import Catalog, Estimate, Pricing, Target
from gatehook_plugins.quota.account import Need

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

    def need(self, estimate: Estimate) -> Need:
        """What a request of this size needs."""
        prompt, answer = estimate.prompt, estimate.completion
        prompt_most, answer_most = estimate.prompt_most, estimate.completion_most
        # Rounded up per side, as costs are.
        pictures = estimate.images * self.image
        expected = pictures - (-prompt * self.prompt // 1000) - (-answer * self.completion // 1000)
        most = pictures - (-prompt_most * self.prompt_most // 1000) - (-answer_most * self.completion // 1000)
        return Need.of(prompt_most + answer_most, most, prompt + answer, expected)

    def cover(self, pricing: Pricing) -> bool:
        """Whether nothing there is dearer."""
        is_covered = pricing.output <= self.completion and pricing.image <= self.image
        return is_covered and _dearest(pricing) <= self.prompt_most


class Prices:
    """The rates of every model, worked out when first asked for, and anew when the catalog has changed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._rates: dict[str, Rates] = {}
        catalog.subscribe(self._rates.clear)

    def of(self, model: str) -> Rates:
        """Those of one model, its fallbacks included; nothing for a name the catalog does not have."""
        name = self._catalog.canonical(model)
        rates = self._rates.get(name)
        if rates is None:
            rates = self._work_out(model)
            if name in self._catalog.groups():  # clients may ask for any name, and memory is not theirs to fill
                self._rates[name] = rates
        return rates

    def _work_out(self, model: str) -> Rates:
        priced = [target.pricing for target in self._chain(model) if target.pricing is not None]
        without = (target.key for target in self._catalog.group(model) if target.pricing is None)
        return Rates(
            prompt=max((pricing.input for pricing in priced), default=0),
            prompt_most=max(map(_dearest, priced), default=0),
            completion=max((pricing.output for pricing in priced), default=0),
            image=max((pricing.image for pricing in priced), default=0),
            unpriced=next(without, ""),
        )

    def _chain(self, model: str) -> Iterator[Target]:
        """All deployments of a model, of its fallbacks, of theirs, and so on."""
        names = [model]
        seen = {model}
        for name in names:  # grows while it is walked
            for target in self._catalog.group(name):
                yield target
                names += [fallback for fallback in target.fallbacks if fallback not in seen]
                seen.update(target.fallbacks)


def _dearest(pricing: Pricing) -> int:
    return max(pricing.input, pricing.cached_input or 0, pricing.cache_write or 0)
