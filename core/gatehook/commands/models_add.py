"""`gatehook models add PATH`: writes the models at a path of this machine into settings.local.toml."""

import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gatehook.config.settings import Settings, load
from gatehook.errors import StartupError
from gatehook.loader.loading import installed
from gatehook.loader.plugins import Plugins
from gatehook.model import Target

__all__ = ["Finder", "add"]

_LOCAL = "settings.local.toml"


@runtime_checkable
class Finder(Protocol):
    """What a plugin's class may also be: one that can find its models at a path."""

    @staticmethod
    def models_at(path: Path) -> Sequence[Mapping[str, Any]]:
        """A [[models]] table for each model in this file or folder; () if there is none that the plugin can run.

        Raises:
            StartupError: there is one, but it is damaged.
        """
        ...


def add(config: Path | None, path: Path, name: str | None) -> tuple[Path, Sequence[str]]:
    """Write an entry for every model at this path that has none, and switch on the plugin that runs them.

    Args:
        config: the settings file; None: see `config.settings.located`.
        path: a file or a folder.
        name: for the model, instead of its own; only for a single one.

    Returns:
        The file that was written, and the names of the models.

    Raises:
        StartupError: there is no new model there, its name is taken, or the settings would be wrong: nothing is
            written.
    """
    settings = load(config)
    plugin, entries = _found(path.expanduser().resolve())
    if name is not None:
        if len(entries) > 1:
            raise StartupError(f"--name: there are {len(entries)} models at {path}; add them one by one")
        entries = [{**entries[0], "name": name}]
    entries = [entry for entry in entries if not any(_stands_for(target, entry) for target in settings.targets)]
    if not entries:
        raise StartupError(f"{path}: what is there is in the settings already")
    taken = {target.name for target in settings.targets}
    if clashes := [entry["name"] for entry in entries if entry["name"] in taken]:
        raise StartupError(*(f"there is a model {clash!r} already; give this one another --name" for clash in clashes))
    file = settings.path.with_name(_LOCAL)
    before = file.read_text("utf-8") if file.exists() else None
    text = "".join(_table(entry) for entry in entries)
    if not _is_on(settings, plugin):
        text = _switched_on(plugin, before or "", file) + text
    parts = [before.rstrip("\n") + "\n\n" if before and before.strip() else "", text.lstrip("\n")]
    _write(file, "".join(parts))
    try:
        load(config)
    except StartupError:
        if before is None:
            file.unlink()
        else:
            _write(file, before)
        raise
    return file, [str(entry["name"]) for entry in entries]


def _write(file: Path, text: str) -> None:
    """Replace the file in one step, so that a full disk does not destroy what it held.

    Raises:
        StartupError: it cannot be written.
    """
    new = file.with_name(f"{file.name}.new")
    try:
        if file.exists():  # it may hold secrets
            new.touch(0o600)
            shutil.copymode(file, new)
        new.write_text(text, "utf-8")
        new.replace(file.resolve())
    except OSError as error:
        new.unlink(missing_ok=True)
        raise StartupError(f"{file}: cannot be written: {error.strerror}") from None


def _found(path: Path) -> tuple[str, Sequence[Mapping[str, Any]]]:
    if not path.exists():
        raise StartupError(f"{path}: no such file or folder")
    for plugin, entry in installed().items():
        cls = entry.load()
        if isinstance(cls, Finder) and (found := cls.models_at(path)):
            return plugin, found
    raise StartupError(f"{path}: no model that an installed plugin could run; local models are GGUF files")


def _stands_for(target: Target, entry: Mapping[str, Any]) -> bool:
    """Whether a deployment of the settings is already what this entry would add."""
    same = (target.name, target.vendor) == (entry["name"], entry["vendor"])
    return same and entry["options"].items() <= target.options.items()


def _is_on(settings: Settings, plugin: str) -> bool:
    return any(one.name == plugin and one.enabled for one in Plugins(settings).report())


def _switched_on(plugin: str, before: str, file: Path) -> str:
    if plugin in tomllib.loads(before).get("plugins", {}):
        raise StartupError(f"{file}: set enabled = true in [plugins.{plugin}] there, and add the model again")
    return f"\n[plugins.{plugin}]\nenabled = true\n"


def _table(entry: Mapping[str, Any]) -> str:
    return "\n[[models]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in entry.items())


def _value(value: Any) -> str:
    """A value in TOML, whose strings, numbers and booleans are written as in JSON."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)
