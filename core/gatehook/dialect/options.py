"""A deployment's `options`, read as the type that its vendor gives them."""

from typing import TypeVar

import msgspec

from gatehook.dialect.misfit import misfit
from gatehook.errors import Misconfigured
from gatehook.model import Target

__all__ = ["option_faults", "read_options"]

T = TypeVar("T", bound=msgspec.Struct)


def read_options(target: Target, kind: type[T]) -> T:
    """The options of a deployment, as a type.

    Args:
        target: the deployment.
        kind: a Struct that forbids unknown fields, so that a word misspelt is told.

    Raises:
        Misconfigured: an option is wrong, missing or unknown; its `fault` names it.
    """
    try:
        return msgspec.convert(dict(target.options), kind)
    except msgspec.ValidationError as error:
        fault = misfit(error, kind.__struct_fields__, kind).message
        raise Misconfigured(f"options: {fault}", model=target.name) from None


def option_faults(target: Target, kind: type[msgspec.Struct]) -> list[str]:
    """What is wrong with the options of a deployment, for a vendor's `check`; see `read_options`."""
    try:
        read_options(target, kind)
    except Misconfigured as error:
        return [error.fault]
    return []
