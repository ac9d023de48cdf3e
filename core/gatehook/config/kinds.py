"""The types that annotations allow, at any depth of a value, and what pydantic alone would let pass as one of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = [
    "NO_NUMBER",
    "KeyPath",
    "is_container",
    "is_model",
    "is_switch_as_number",
    "kinds_inside",
    "kinds_of",
    "switches_as_numbers",
]

KeyPath: TypeAlias = tuple[str | int, ...]

_CONTAINERS: Final = (dict, list, set, frozenset, tuple, Mapping, Sequence, Collection)
_NUMBERS: Final = (int, float, Decimal)

NO_NUMBER: Final = "must be a number, not true or false"


def kinds_of(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without Annotated, unions and aliases around them."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in kinds_of(member)]
    if hasattr(annotation, "__value__"):  # type X = …
        return kinds_of(annotation.__value__)
    return [annotation]


def is_model(kind: Any) -> bool:
    """Whether it is a class of pydantic's."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def is_container(kind: Any) -> bool:
    """Whether its values hold others."""
    base = get_origin(kind) or kind
    return is_model(base) or (isinstance(base, type) and base is not str and issubclass(base, _CONTAINERS))


def kinds_inside(kinds: Sequence[Any], step: str | int) -> list[Any]:
    """The types that the item or key `step` may have, in values of these types."""
    inside: list[Any] = []
    for kind in kinds:
        if is_model(kind):
            known = kind.model_fields.get(step)
            inside += kinds_of(known.annotation) if known else []
        else:
            arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
            for argument in arguments if isinstance(step, int) else arguments[-1:]:
                inside += kinds_of(argument)
    return inside


def is_switch_as_number(kinds: Sequence[Any], value: Any) -> bool:
    """Whether true or false stands where a value of these types must be a number: pydantic takes 1 or 0 for it."""
    if not isinstance(value, bool):
        return False
    may_stand = any(kind is bool or any(one is value for one in get_args(kind)) for kind in kinds)  # or a Literal
    return not may_stand and any(kind in _NUMBERS for kind in kinds)


def switches_as_numbers(kinds: Sequence[Any], value: Any, place: KeyPath = ()) -> Iterator[KeyPath]:
    """The places inside of a value of these types where true or false stands though it must be a number."""
    if is_switch_as_number(kinds, value):
        yield place
    elif kinds and isinstance(value, dict | list):
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from switches_as_numbers(kinds_inside(kinds, step), item, (*place, step))
