"""What becomes of each OpenAI parameter at a vendor: declared once, applied by the kernel, printed by the CLI.

Three dispositions, never a silent fourth: *mapped* (the vendor's translation uses it), *dropped* (the vendor has no
place for it; a response header says so, or a 400 where the deployment is `strict`), *refused* (leaving it out would
change the answer's meaning; 400 naming it).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from gatehook.errors import InvalidRequest, Retry

__all__ = ["Parameter", "dropped", "left_open", "mapped", "refused", "sift"]


class Parameter(Struct, frozen=True):
    """The disposition of one parameter. `note` is for people: the vendor's own name for it, or the reason.

    `harmless` tells which values ask for nothing (``n = 1``, ``logprobs = false``): with such a value a dropped or
    refused parameter is left out silently.
    """

    disposition: Literal["mapped", "dropped", "refused"]
    note: str
    harmless: Callable[[Any], bool] = lambda value: False


def mapped(note: str) -> Parameter:
    """The vendor gets it, under the name or in the form that `note` says."""
    return Parameter("mapped", note)


def dropped(note: str, *, unless: tuple[Any, ...] = ()) -> Parameter:
    """The vendor does not get it, for the reason in `note`; values in `unless` ask for nothing."""
    return Parameter("dropped", note, _one_of(unless))


def refused(note: str, *, unless: tuple[Any, ...] = ()) -> Parameter:
    """A request with it is refused, for the reason in `note`; values in `unless` ask for nothing."""
    return Parameter("refused", note, _one_of(unless))


def _one_of(values: tuple[Any, ...]) -> Callable[[Any], bool]:
    # 1 == True in Python; a parameter's type is part of what it asks for.
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def sift(
    payload: Mapping[str, Any], table: Mapping[str, Parameter], *, vendor: str, strict: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Apply a vendor's table: what the vendor gets, and the names of what was dropped.

    An explicit null is the same as absent; 0, false, "" and [] are values. A parameter that the table does not know is
    dropped.

    Args:
        payload: the request in OpenAI's shape.
        table: name to disposition.
        vendor: for messages.
        strict: turn every drop into a refusal.

    Raises:
        InvalidRequest: a refused parameter, or a dropped one under `strict`; another deployment may accept it.
    """
    kept: dict[str, Any] = {}
    lost: list[str] = []
    for name, value in payload.items():
        if value is None:
            continue
        rule = table.get(name, _UNKNOWN)
        if rule.disposition == "mapped":
            kept[name] = value
        elif not rule.harmless(value):
            if rule.disposition == "refused" or strict:
                raise InvalidRequest(
                    f"{name}: not supported by vendor {vendor!r}: {rule.note}",
                    param=name,
                    code="unsupported_parameter",
                    retry=Retry.NEXT,
                )
            lost.append(name)
    return kept, lost


_LIMITS = ("max_tokens", "max_completion_tokens")
"""Two names of one parameter: a request with either has set a limit."""


def left_open(
    payload: Mapping[str, Any], defaults: Mapping[str, Any], table: Mapping[str, Parameter] | None = None
) -> dict[str, Any]:
    """Those of a deployment's defaults that the request leaves open: the parameter is absent or null.

    Args:
        payload: the request in OpenAI's shape.
        defaults: parameter to value.
        table: the vendor's; what it does not map is left out, as nobody asked for it.
    """
    return {
        name: value
        for name, value in defaults.items()
        if all(payload.get(one) is None for one in (_LIMITS if name in _LIMITS else (name,)))
        and (table is None or table.get(name, _UNKNOWN).disposition == "mapped")
    }


_UNKNOWN = dropped("not a parameter this vendor's translation knows")
