"""The layers stacked by dynaconf. Imported only when settings are loaded: a plugin's import need not pay for it."""

import contextlib
import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook.config.reading import Layer


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Have imports of these packages fail as if they were not installed; but not of those that are loaded already."""
    modules: dict[str, Any] = sys.modules
    for name in names:
        modules.setdefault(name, None)
    try:
        yield
    finally:
        for name in names:
            if modules[name] is None:
                del modules[name]


# dynaconf would load the first two wherever they are installed: 6 MB for what is not used here; and the last, a command
# of python-dotenv's that it has a copy of, with all of click.
with _hidden("flask", "jinja2", "dynaconf.vendor.dotenv.cli"):
    from dynaconf.base import Settings as DynaconfStore
    from dynaconf.loaders.base import SourceMetadata

__all__ = ["stack"]


class _Store(DynaconfStore):  # type: ignore[misc]  # dynaconf has no types
    """dynaconf's merging store, deaf to the many *_FOR_DYNACONF variables that would change how it merges."""

    environ: Final[Mapping[str, str]] = {}


def stack(layers: Sequence[Layer]) -> dict[str, Any]:
    """What the layers come to. Texts stay texts: no `@format`, no casting."""
    store = _Store(
        AUTO_CAST_FOR_DYNACONF=False,
        MERGE_ENABLED_FOR_DYNACONF=True,
        dynaconf_skip_loaders=True,  # reading its own hundred defaults would take longer than all of the layers
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
