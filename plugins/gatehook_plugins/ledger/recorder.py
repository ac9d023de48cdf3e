"""What is written of a request: the intent before it is made, and at its end one row."""

import time
from collections.abc import Callable
from typing import Final, Literal, Protocol

from gatehook import ANONYMOUS, Call, Catalog, Cost, Observer, Outcome, Unavailable, Usage, expected_prompt
from gatehook_plugins.ledger.records import Intent, Row

__all__ = ["CRASHED", "Recorder", "crashed"]

CRASHED: Final = "gateway_crashed"
"""The code of a request that its process did not live to end."""

_TEXT = 256
"""Letters of anything that is kept of a request."""
_KEPT = 10_000
"""Texts that are remembered as fit to be kept."""
_COST = 10**15
"""Nano-dollars: more than one request can cost, a million dollars. Sums of these fit into 64 bits."""
_NOTHING: Final = Usage()
_FREE: Final = Cost()


class Records(Protocol):
    """Where it is written."""

    @property
    def intend(self) -> Callable[[Intent], None]:
        """Writes an intent, and raises OSError if it cannot."""
        ...

    @property
    def enter(self) -> Callable[[Row], None]:
        """Takes a row, whatever happens."""
        ...


class Recorder(Observer):
    """Watches requests, and admits them all, as long as it can write down that they are made.

    A request of nobody (who showed no good key) that asked for nothing yet is not recorded.
    """

    def __init__(self, catalog: Catalog, records: Records) -> None:
        self._catalog = catalog
        self._records = records
        self._fit = _Fit()
        self._prices = _Prices(catalog)

    def admit(self, call: Call) -> None:
        """Write the intent.

        Raises:
            Unavailable: it cannot be written, so the request could not be accounted for.
            InvalidRequest: the body holds what cannot be decoded.
        """
        principal, size, fit = call.principal, call.size, self._fit
        intent = Intent(
            call.id,
            time.time_ns() // 1_000_000,
            fit[principal.id],
            fit[principal.key_id],
            call.operation,
            call.surface,
            fit[call.model],
            expected_prompt(call, self._catalog.group(call.model)) if size is None else size.prompt,
            self._prices[call.model],
        )
        try:
            self._records.intend(intent)
        except OSError as error:
            raise Unavailable(
                "the gateway cannot write down what is used, so it answers nothing now; its log tells why",
                code="ledger_unavailable",
            ) from error

    def finished(self, call: Call, outcome: Outcome) -> None:
        """Write the row."""
        principal, target, fit = call.principal, call.target, self._fit
        if principal is ANONYMOUS and not call.model:
            return
        usage, cost, first_token = outcome.usage, outcome.cost, outcome.first_token
        if usage is not None and outcome.status != "cached":
            provenance: Literal["vendor", "estimated", "none"] = "estimated" if usage.estimated else "vendor"
        else:
            usage, cost, provenance = _NOTHING, _FREE, "none"  # what was not used costs nothing
        row = Row(
            call.id,
            time.time_ns() // 1_000_000,
            fit[principal.id],
            fit[principal.key_id],
            call.operation,
            call.surface,
            fit[call.served or call.model],
            "" if target is None else fit[target.key],
            "" if target is None else fit[target.vendor],
            outcome.status,
            outcome.http_status,
            fit[outcome.code],
            provenance,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
            None if cost is None else cost.input,
            None if cost is None else cost.output,
            round(outcome.duration * 1000),
            None if first_token is None else round(first_token * 1000),
            call.attempts,
        )
        self._records.enter(row)


def crashed(intent: Intent) -> Row:
    """The row of a request whose process died: its prompt went out, of an answer nothing is known."""
    price, prompt = intent.input_price, intent.prompt_tokens
    cost = None if price is None else min(-(-prompt * price // 1000), _COST)
    return Row(
        intent.request_id,
        intent.at,
        intent.user_id,
        intent.key_id,
        intent.operation,
        intent.surface,
        intent.model,
        deployment="",
        vendor="",
        outcome="failed",
        http_status=500,
        code=CRASHED,
        provenance="estimated",
        prompt_tokens=prompt,
        input_cost=cost,
        output_cost=None if cost is None else 0,
    )


class _Fit(dict[str, str]):
    """From a text to what every database can keep and every terminal show of it: nearly always the text itself.

    The same few texts come with every request, so what they become is remembered.
    """

    def __missing__(self, text: str) -> str:
        if len(text) > _TEXT:
            return self[text[:_TEXT]]  # never remembered itself: nobody shall fill the memory
        if len(self) >= _KEPT:
            self.clear()
        fit = text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)
        self[text] = fit
        return fit


class _Prices(dict[str, int | None]):
    """From a model to the price of its prompts, until the catalog changes; None where no price is known.

    Only of models that the catalog lists it is remembered: clients may ask for any, and memory is not theirs to fill.
    """

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog
        catalog.subscribe(self.clear)

    def __missing__(self, model: str) -> int | None:
        pricing = self._catalog.group(model).pricing
        price = None if pricing is None else pricing.input
        if model in self._catalog.groups():
            self[model] = price
        return price
