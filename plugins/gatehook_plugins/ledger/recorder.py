"""Writes down each request: an intent before it is made, and one row at its end."""

import time
from collections.abc import Callable
from typing import Final, Literal, Protocol

from gatehook import (
    ANONYMOUS,
    LONGEST_MODEL_NAME,
    Call,
    Catalog,
    Cost,
    Observer,
    Outcome,
    Unavailable,
    Usage,
    expected_prompt,
)
from gatehook_plugins.ledger.records import Intent, Row

__all__ = ["CRASHED", "Recorder", "crashed"]

CRASHED: Final = "gateway_crashed"
"""The code of a request that its process did not live to end."""

_TEXT: Final = LONGEST_MODEL_NAME
"""The most characters that are kept of any text."""
_KEPT = 10_000
"""Texts whose fit form is remembered."""
_COST = 10**15
"""Nano-dollars, a million dollars: more than one request can cost, and sums of many such still fit into 64 bits."""
_NOTHING: Final = Usage()
_FREE: Final = Cost()


class Records(Protocol):
    """Where requests are written down."""

    @property
    def intend(self) -> Callable[[Intent], None]:
        """Writes an intent, and raises OSError if it cannot."""
        ...

    @property
    def enter(self) -> Callable[[Row], None]:
        """Takes a row, whatever happens."""
        ...


class Recorder(Observer):
    """Observes requests; as a limiter, admits each as long as it can be written down.

    A request that showed no good key and got no further than that is not recorded.
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
    """The row of a request whose process died: its prompt is taken to be used, as nothing is known of an answer."""
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
    """From a text to its fit form, which any database can keep and any terminal show: nearly always the text itself.

    The same few texts come with every request, so what they become is remembered.
    """

    def __missing__(self, text: str) -> str:
        if len(text) > _TEXT:
            return self[text[:_TEXT]]  # only the beginning is remembered: nobody shall fill the memory
        if len(self) >= _KEPT:
            self.clear()
        fit = text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)
        self[text] = fit
        return fit


class _Prices(dict[str, int | None]):
    """From a model to the price of its prompts, until the catalog changes; None where no price is known.

    Remembered for models that the catalog lists only: clients may ask for any name, and memory is not theirs to fill.
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
