"""From stacked layers to one typed table: decode, look secrets up, validate, and tell where each fault is written."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_origin

from pydantic import SecretStr, ValidationError

from gatehook.config.env_layer import PREFIX
from gatehook.config.kinds import NO_NUMBER, KeyPath, is_container, is_model, is_switch_as_number, kinds_inside
from gatehook.config.sections import NO_SIZE, Table
from gatehook.errors import redact

__all__ = ["Layer", "Layers", "MissingSecretError", "Reading", "find_secret", "nearest", "table_at", "value_at"]

TableT = TypeVar("TableT", bound=Table)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class MissingSecretError(Exception):
    """A secret is a reference that leads nowhere; the message says why: "refers to $X, which is not set"."""


def find_secret(text: str, environ: Mapping[str, str], directory: Path) -> str:
    """The secret itself, from `env:NAME`, from `file:PATH` (relative to `directory`), or as it stands.

    Raises:
        MissingSecretError: nothing is there, or only white space.
    """
    if text.startswith("env:"):
        name = text.removeprefix("env:").strip()
        if not _VARIABLE.fullmatch(name):  # perhaps the secret itself, put there by mistake: not repeated in messages
            raise MissingSecretError(
                "refers to an environment variable, but what follows 'env:' is not the name of one"
            )
        found, what = environ.get(name), f"${name}"
    elif text.startswith("file:"):
        name = text.removeprefix("file:").strip()
        found, what = _content(directory / name, name), f"the file {name}"
    else:
        return text
    if found is None:
        raise MissingSecretError(f"refers to {what}, which is not set")
    if not found.strip():
        raise MissingSecretError(f"refers to {what}, which is empty")
    return found.strip()


def _content(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValueError:  # not UTF-8, or a path that no file can have
        reason = "not a UTF-8 text"
    raise MissingSecretError(f"refers to the file {name}, which cannot be read: {reason}")


def nearest(word: str, words: Collection[str]) -> str:
    """The end of a message about an unknown word: `; did you mean 'x'?` with the most similar one, "" if none is."""
    import difflib  # only faults need it

    like = {known.lower(): known for known in words}
    found = difflib.get_close_matches(word.lower(), like, n=1) or [one for one in like if _begins(one, word.lower())]
    return f"; did you mean '{like[found[0]]}'?" if found else ""


def _begins(known: str, word: str) -> bool:
    """Whether one of the two is the first parts of the other, parts being what underscores separate."""
    shorter, longer = sorted((known, word), key=len)
    return bool(shorter) and longer.startswith(f"{shorter}_")


@dataclass(frozen=True)
class Layer:
    """One source of settings: its name, a file's or `$VARIABLE`, and what it sets."""

    label: str
    data: dict[str, Any] = field(repr=False)

    @property
    def is_variable(self) -> bool:
        """Whether this is one environment variable."""
        return self.label.startswith("$")

    def sets(self, path: KeyPath) -> bool:
        """Whether this layer sets the key at `path`, or (an environment variable) a whole table around it."""
        value = _at(self.data, path)
        return value is not _ABSENT or (self.is_variable and any(isinstance(_at(self.data, path[:n]), str)
                                                                for n in range(1, len(path))))  # fmt: skip


_ABSENT: Any = object()


def _at(data: Any, path: KeyPath) -> Any:
    for step in path:
        if not isinstance(data, dict):
            return _ABSENT
        if step in data:
            data = data[step]
        else:  # variables are read in lower case, and mean the key whatever its case
            data = next((data[key] for key in data if key.lower() == str(step).lower()), _ABSENT)
    return data


def value_at(data: Mapping[str, Any], path: KeyPath) -> Any:
    """What stands at `path`, None if nothing does."""
    found = _at(data, path)
    return None if found is _ABSENT else found


def table_at(data: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    """The table at `path`, {} if there is none."""
    found = _at(data, path)
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Layers:
    """All sources, the weakest first, the settings merged from them, and where `env:` and `file:` are looked up."""

    items: tuple[Layer, ...]
    merged: dict[str, Any] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    directory: Path

    def origin(self, path: KeyPath) -> tuple[str, KeyPath]:
        """The layer that set `path`, and the path within that layer, whose part of a joined list begins at 0."""
        depth = next((n for n, step in enumerate(path) if isinstance(step, int)), None)
        if depth is not None:
            label, index = self._item_origin(path[:depth], int(path[depth]))
            return label, (*path[:depth], index, *path[depth + 1 :])
        for layer in reversed(self.items):
            if layer.sets(path):
                return layer.label, path
        for end in range(len(path) - 1, 0, -1):  # a key that no layer sets belongs to the first that has its table
            for layer in self.items:
                if layer.sets(path[:end]):
                    return layer.label, path
        return self.items[0].label, path

    def _item_origin(self, path: KeyPath, index: int) -> tuple[str, int]:
        label, start, joined = self.items[0].label, 0, list[Any]()
        for layer in self.items:
            value = _at(layer.data, path)
            if isinstance(value, list):
                if value == joined:  # dynaconf does not join a list to its equal
                    continue
                if len(joined) <= index:
                    label, start = layer.label, len(joined)
                joined = joined + value
            elif layer.sets(path):  # a variable replaces the whole list
                label, start, joined = layer.label, 0, []
        return label, index - start

    def where(self, path: KeyPath) -> str:
        """`path` as the beginning of a message: "settings.toml: [plugins.auth_keys] keys[0]"."""
        label, local = self.origin(path)
        if path[0] == "models":
            table, rest = f"[[models]] #{int(local[1]) + 1}{self._model_name(int(path[1]))}", local[2:]
        elif path[0] == "plugins":
            table, rest = f"[plugins.{path[1]}]", local[2:]
        else:
            table, rest = f"[{path[0]}]", local[1:]
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest).lstrip(".")
        return f"{label}: {table} {key}".rstrip()

    def _model_name(self, index: int) -> str:
        name = self.merged["models"][index].get("name")
        return f" ({name[:80]})" if isinstance(name, str) and name and name.isprintable() else ""


class Reading(Generic[TableT]):
    """One table, read. `faults` holds everything that is wrong with it; `table` is None if anything is.

    Args:
        cls: the table's class.
        layers: where it is read from.
        path: the table's place.
        raw: the table's values, if they are not simply what the layers have at `path`.
    """

    def __init__(self, cls: type[TableT], layers: Layers, path: KeyPath, raw: dict[str, Any] | None = None) -> None:
        self._cls = cls
        self._layers = layers
        self._path = path
        self._found: dict[KeyPath, str] = {}
        self._secrets: list[str] = []
        self.table: TableT | None = None
        values = self._prepared([cls], table_at(layers.merged, path) if raw is None else raw, ())
        try:
            table = cls(**values)
        except ValidationError as error:
            self._explain(error, values)
        else:
            self.table = None if self._found else table

    @property
    def faults(self) -> list[str]:
        """Every fault, ready to be shown: without the wrong values, and without secrets."""
        return [
            redact(f"{self._layers.where((*self._path, *place))}: {what}", self._secrets)
            for place, what in self._found.items()
        ]

    def _prepared(self, kinds: Sequence[Any], value: Any, place: KeyPath) -> Any:
        """`value` with secrets looked up and JSON from variables decoded, wherever the types ask for it."""
        if isinstance(value, dict):
            if any(map(is_model, kinds)):
                value = self._without_internal_keys(value, place)
            return {key: self._prepared(kinds_inside(kinds, key), item, (*place, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._prepared(kinds_inside(kinds, n), item, (*place, n)) for n, item in enumerate(value)]
        if is_switch_as_number(kinds, value):
            self._found[place] = NO_NUMBER
            return int(value)  # so that all that is wrong beside it is told as well
        if not isinstance(value, str):
            return value
        if SecretStr in kinds:
            return self._secret(value, place)
        if any(map(is_container, kinds)) and str not in kinds and self._is_from_variable(place):
            return self._decoded(kinds, value, place)
        return value

    def _without_internal_keys(self, table: dict[str, Any], place: KeyPath) -> dict[str, Any]:
        """The table without keys that begin with "_": pydantic-settings would obey `_env_file` and its like."""
        self._found |= {(*place, key): "unknown key" for key in table if key.startswith("_")}
        return {key: value for key, value in table.items() if not key.startswith("_")}

    def _is_from_variable(self, place: KeyPath) -> bool:
        return self._layers.origin((*self._path, *place))[0].startswith("$")

    def _secret(self, text: str, place: KeyPath) -> str:
        try:
            secret = find_secret(text, self._layers.environ, self._layers.directory)
        except MissingSecretError as missing:
            self._found[place] = str(missing)
            return text
        if len(secret) > 3:  # hiding shorter ones would only garble the messages
            self._secrets.append(secret)
        return secret

    def _decoded(self, kinds: Sequence[Any], text: str, place: KeyPath) -> Any:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict | list):
            tables = all(is_model(kind) or get_origin(kind) in (dict, Mapping) for kind in kinds if is_container(kind))
            self._found[place] = "expected JSON, as in " + ("""'{"a": 1}'""" if tables else """'["a", "b"]'""")
            return text
        return self._prepared(kinds, value, place)

    def _explain(self, error: ValidationError, values: dict[str, Any]) -> None:
        known = [*self._found]  # of values that could not be had: what holds them is no better
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            missing = fault["type"] == "missing"
            place = _real_place(fault["loc"], values, missing=missing)
            if place in self._found or any(one[: len(place)] == place for one in known):
                continue
            if missing:
                self._found[place] = "required, but not set" + self._variable_hint(place)
            elif fault["type"] == "extra_forbidden":
                self._found[place] = "unknown key" + nearest(str(place[-1]), self._names_beside(place))
            elif fault["type"].startswith("byte_size"):  # of pydantic's own, which plugins may use
                self._found[place] = NO_SIZE
            else:
                message = fault["msg"].removeprefix("Value error, ")
                self._found[place] = message[:1].lower() + message[1:]

    def _variable_hint(self, place: KeyPath) -> str:
        path = (*self._path, *place)
        if any(isinstance(step, int) for step in path):
            return ""
        return f" (in a file, or as ${PREFIX}{'__'.join(map(str, path)).upper()})"

    def _names_beside(self, place: KeyPath) -> list[str]:
        kinds: list[Any] = [self._cls]
        for step in place[:-1]:
            kinds = kinds_inside(kinds, step)
        return [name for kind in kinds if is_model(kind) for name in kind.model_fields]


def _real_place(location: KeyPath, value: Any, *, missing: bool) -> KeyPath:
    """Where pydantic found a fault, without the steps that it inserts for members of a union, which nobody wrote."""
    place: list[str | int] = []
    for n, step in enumerate(location):
        is_there = (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        )
        if is_there:
            value = value[step]
        if is_there or (missing and n == len(location) - 1):
            place.append(step)
    return tuple(place)
