"""The layers stacked by dynaconf. Imported only when settings are loaded, as importing dynaconf takes time."""

import contextlib
import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook.config.reading import Layer


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Make imports of these packages fail as if they were not installed, unless they are loaded already."""
    modules: dict[str, Any] = sys.modules
    for name in names:
        modules.setdefault(name, None)
    try:
        yield
    finally:
        for name in names:
            if modules[name] is None:
                del modules[name]


# dynaconf would import the first two wherever they are installed, 6 MB that are not used here; and the last, a command
# of its copy of python-dotenv, with all of click.
with _hidden("flask", "jinja2", "dynaconf.vendor.dotenv.cli"):
    from dynaconf.base import Settings as DynaconfStore
    from dynaconf.loaders.base import SourceMetadata

__all__ = ["stack"]


class _Store(DynaconfStore):  # type: ignore[misc]  # dynaconf has no types
    """dynaconf's merging store, without an environment, whose *_FOR_DYNACONF variables would change how it merges."""

    environ: Final[Mapping[str, str]] = {}


def stack(layers: Sequence[Layer]) -> dict[str, Any]:
    """The layers merged. Strings stay strings: no `@format`, no casting."""
    store = _Store(
        AUTO_CAST_FOR_DYNACONF=False,
        MERGE_ENABLED_FOR_DYNACONF=True,
        dynaconf_skip_loaders=True,  # loading dynaconf's own hundred defaults would take longer than all of the layers
        dynaconf_skip_validators=True,
    )
    for layer in layers:
        store.update(
            {"settings": copy.deepcopy(layer.data)},  # dynaconf merges into what it is given
            loader_identifier=SourceMetadata("gatehook", layer.label),
            merge=True,
            dotted_lookup=False,
            tomlfy=False,
            validate=False,
        )
    merged: dict[str, Any] = _plain(store.get("settings"))
    if isinstance(merged.get("models"), str):
        merged["models"] = json.loads(merged["models"])
    return merged


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
