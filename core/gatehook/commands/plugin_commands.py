"""The commands that plugins add to the program."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.errors import StartupError

if TYPE_CHECKING:
    from gatehook.protocols import Command

__all__ = ["run"]


def run(parser: argparse.ArgumentParser, words: Sequence[str], own: Sequence[str]) -> int:
    """Run a command of a plugin that is on; returns its exit status.

    Args:
        parser: the program's, to report wrong usage.
        words: the command's name, and what follows it.
        own: the names of the program's own commands.

    Raises:
        StartupError: the settings, or the plugins' commands, have faults; or the command raises it.
        SystemExit: there is no such command.
    """
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config", type=Path)
    options, rest = config.parse_known_args(words[1:])
    gateway = Gateway(load(options.config))
    commands = _commands(gateway, own)
    if words[0] not in commands:
        off = ", ".join(f"[plugins.{name}]" for name in _off_with_commands(gateway))
        hint = f". A plugin that is off may have it; enabled = true switches one on: {off}" if off else ""
        parser.error(f"unknown command {words[0]!r}; there are: {', '.join([*own, *commands])}{hint}")
    return int(commands[words[0]].run(rest))


def _commands(gateway: Gateway, own: Sequence[str]) -> dict[str, "Command"]:
    commands: dict[str, Command] = {}
    owners: dict[str, str] = {}
    faults: list[str] = []
    for plugin, command in gateway.plugins.collect("register_commands", gateway=gateway):
        name = command.name
        if name in own:
            faults.append(f"command {name!r} of plugin {plugin!r} is one of gatehook's own; rename it")
        elif name in commands:
            faults.append(f"command {name!r} is added by both {owners[name]!r} and {plugin!r}; disable one")
        else:
            commands[name], owners[name] = command, plugin
    if faults:
        raise StartupError(*faults)
    return commands


def _off_with_commands(gateway: Gateway) -> list[str]:
    """The plugins that are off and would add commands; to find out, they are imported."""
    from gatehook.loader.loading import installed

    entries = installed()
    return [one.name for one in gateway.plugins.report() if not one.enabled and _adds_commands(entries[one.name])]


def _adds_commands(entry: Any) -> bool:
    try:
        return hasattr(entry.load(), "register_commands")
    except Exception:  # noqa: BLE001  # a plugin that is off may be broken
        return False
