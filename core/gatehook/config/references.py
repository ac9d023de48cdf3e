"""Which values of a plugin's settings name models: their types say so, and `gatehook check` looks for the models."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel

__all__ = ["ModelKey", "ModelName", "Reference", "references"]


class Reference:
    """Marks a string that names a model."""

    __slots__ = ("own",)

    def __init__(self, *, own: bool) -> None:
        """`own`: only a model's own name will do (or a wildcard); otherwise an alias or a pattern will, too."""
        self.own = own


ModelName = Annotated[str, Reference(own=False)]
ModelKey = Annotated[str, Reference(own=True)]

_SERIES: Final = (list, tuple, set, frozenset)


def references(section: BaseModel) -> Iterator[tuple[str, str, Reference]]:
    """Every mention of a model in a section: its place ("tools.weather.models"), the name, and what may stand there."""
    for name, field in type(section).model_fields.items():
        if name in section.model_fields_set:  # defaults name no models
            yield from _within(getattr(section, name), field.annotation, field.metadata, name)


def _within(value: Any, kind: Any, marks: list[Any], place: str) -> Iterator[tuple[str, str, Reference]]:
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
    if isinstance(value, str):
        yield from ((place, value, mark) for mark in marks if isinstance(mark, Reference))
    elif isinstance(value, BaseModel):
        yield from ((f"{place}.{inner}", name, mark) for inner, name, mark in references(value))
    elif isinstance(value, Mapping) and len(kinds := get_args(kind)) == 2:
        for key, inner in value.items():
            yield from _within(key, kinds[0], [], place)
            yield from _within(inner, kinds[1], [], f"{place}.{key}")
    elif isinstance(value, _SERIES) and (kinds := get_args(kind)):
        for inner in value:
            yield from _within(inner, kinds[0], [], place)
