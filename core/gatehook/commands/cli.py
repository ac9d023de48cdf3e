"""The `gatehook` program: serve, reload, check, plugins, new-plugin, models, …, and what plugins add."""

import argparse
import contextlib
import gc
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatehook.counting import counted
from gatehook.errors import StartupError

__all__ = ["main"]

_KINDS = ("vendor", "auth", "limiter", "router", "cache", "tool-policy", "tool", "transform", "observer", "surface")
"""What `new-plugin` can write: those of `scaffold`, which is not imported for every command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 fine, 1 a fault that was told, 2 wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        if sys.stdout is not None:  # it is, where the program was started with stdout closed
            sys.stdout.flush()
        return status
    except StartupError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return 1
    except BrokenPipeError:  # `gatehook models | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        told = filter(None, [error.filename, error.strerror or error])
        print(f"gatehook {words[0]}:", *map(str, told), file=sys.stderr)
        _discard_output()
        return 1


def _run(words: Sequence[str]) -> int:
    parser = _parser()
    if words and not words[0].startswith("-") and words[0] not in _COMMANDS:
        from gatehook.commands.plugin_commands import run

        return run(parser, words, tuple(_COMMANDS))
    options = parser.parse_args(words)
    return _COMMANDS[options.command](options)


def _discard_output() -> None:
    """Have Python not try again, at exit, to write what could not be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print("gatehook", version("gatehook"))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--config", type=Path, metavar="PATH", help="settings file (default: $GATEHOOK_CONFIG, ./settings.toml)"
    )
    parser = argparse.ArgumentParser(
        prog="gatehook",
        description="A plugin-based gateway in front of language models.",
        epilog="Plugins that are on may add commands: `gatehook plugins` shows which provide some.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", parents=[shared], help="serve until SIGTERM or Ctrl-C")
    commands.add_parser("reload", parents=[shared], help="have the running gateway take over changed settings")
    commands.add_parser("check", parents=[shared], help="check the settings without serving; tells every fault")
    plugins = commands.add_parser("plugins", parents=[shared], help="list the installed plugins, or tell all of one")
    plugins.add_argument("name", nargs="?", help="a plugin: its hooks, its settings and where each comes from")
    plugins.add_argument("--json", action="store_true", help="print JSON")
    new = commands.add_parser("new-plugin", help="write a distribution with a plugin that works, to begin with")
    new.add_argument("kind", choices=_KINDS, metavar="KIND", help=", ".join(_KINDS))
    new.add_argument("name", metavar="NAME", help="its name in settings.toml")
    new.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where (default: here)")
    models = commands.add_parser(
        "models", parents=[shared], help="list the models and their deployments; `models add PATH` adds local ones"
    )
    models.add_argument("what", nargs="*", metavar="add PATH", help="a file or a folder with models of this machine")
    models.add_argument("--name", help="what the model that is added is to be called")
    models.add_argument(
        "--params", metavar="NAME", help="what becomes of each parameter at this model's or vendor's deployments"
    )
    models.add_argument("--json", action="store_true", help="print JSON")
    chat = commands.add_parser("chat", parents=[shared], help="talk to a model in the terminal")
    chat.add_argument("model")
    chat.add_argument("--key", default="", help="an API key of the gateway, or env:NAME")
    commands.add_parser("schema", parents=[shared], help="print the JSON Schema of settings.toml")
    return parser


def _settings(options: argparse.Namespace) -> Any:
    from gatehook.config.settings import load

    return load(options.config)


def _serve(options: argparse.Namespace) -> int:
    if os.getpid() == 1:  # of a container: the system passes over signals for which its first process has no handler
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    from gatehook.serving.output import unfailing

    # A reload that is asked for before the supervisor can heed it waits: by itself the signal would end the program.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    gc.disable()  # nearly all objects made at the start live on; the supervisor switches it on again
    try:
        with unfailing():
            return _supervise(options)
    finally:
        gc.enable()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _supervise(options: argparse.Namespace) -> int:
    from gatehook.serving.authorities import read_aside

    with read_aside() as certificates:
        from gatehook.serving.supervisor import supervise

    def build() -> Any:
        gateway = _built(options)
        certificates.join()
        for fault in gateway.faults():
            print(f"warning: {fault}", file=sys.stderr)
        for target in gateway.settings.targets:
            if target.unavailable:
                print(f"note: model {target.name} is off: {target.unavailable}", file=sys.stderr)
        return gateway

    def ready(gateway: Any, address: str, models: int) -> None:
        is_open = not gateway.pipeline.concerns.authenticators
        guarded = "; no authentication plugin is on, any key is accepted" if is_open else ""
        count = f"{counted(len(gateway.plugins.names), 'plugin')} and {counted(models, 'model')}"
        workers = gateway.settings.server.workers
        processes = "" if workers == 1 else f", in {workers} processes"
        print(f"Gatehook listens on {address} with {count}{processes}{guarded}", file=sys.stderr, flush=True)

    form = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, stream=sys.stderr)  # libraries tell of troubles only
    logging.getLogger("gatehook").setLevel(logging.INFO)
    supervise(build, ready)
    return 0


def _built(options: argparse.Namespace, *, strict: bool = False) -> Any:
    """The gateway of these settings; with `strict`, what it could serve without is a fault, too.

    Raises:
        StartupError: with every fault of the settings, the plugins and the models together.
    """
    from gatehook.app import Gateway
    from gatehook.config.settings import load

    faults: list[str] = []
    try:
        gateway = Gateway(load(options.config, gathered=faults), gathered=faults)
        faults += gateway.faults() if strict else ()
        gateway.require_safe()
    except StartupError as error:
        faults += error.faults
    if faults:
        raise StartupError(*dict.fromkeys(faults))
    return gateway


def _reload(options: argparse.Namespace) -> int:
    from gatehook.config.settings import located
    from gatehook.control import ask, control_path

    settings = located(options.config)
    said = ask(control_path(settings), "reload", str(settings))
    if faults := said["faults"]:
        raise StartupError(*faults, "the old settings stay in force")
    models, workers = counted(said["models"], "model"), counted(said["workers"], "worker")
    print(f"reloaded: {models} at {said['address']}, {workers}")
    return 0


def _check(options: argparse.Namespace) -> int:
    import asyncio

    from gatehook.commands.inspection import idle, inspected, misspelt
    from gatehook.commands.unknown_models import unknown_models

    gateway = _built(options, strict=True)
    faults, notes = asyncio.run(inspected(gateway))
    if faults:
        raise StartupError(*faults)
    for note in (*idle(gateway), *misspelt(gateway), *unknown_models(gateway), *notes):
        print(note)
    settings = gateway.settings
    plugins, deployments = len(gateway.plugins.names), len(settings.targets)
    print(f"{settings.path}: fine; {counted(plugins, 'plugin')}, {counted(deployments, 'deployment')}")
    return 0


def _plugins(options: argparse.Namespace) -> int:
    from gatehook.loader.plugins import Plugins

    settings, faults = _settings(options), list[str]()
    plugins = Plugins(settings, gathered=faults)
    if options.name is not None:
        return _plugin(plugins, options.name, settings, as_json=options.json)
    report = plugins.report()
    if options.json:
        fields = ("name", "version", "distribution", "enabled", "state", "hooks")
        _print_json([{field: getattr(one, field) for field in fields} for one in report])
    else:
        rows = [
            (one.name, one.version, one.distribution, one.state,
             ", ".join(hook.removeprefix("register_") for hook in one.hooks) or "-")
            for one in report
        ]  # fmt: skip
        _print_table(("NAME", "VERSION", "DISTRIBUTION", "STATE", "PROVIDES"), rows)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _plugin(plugins: Any, name: str, settings: Any, *, as_json: bool) -> int:
    from gatehook.commands.plugin_page import about, page
    from gatehook.loader.loading import installed

    known = {one.name: one for one in plugins.report()}
    if name not in known:
        raise StartupError(f"there is no plugin {name!r}; there are: {', '.join(known)}")
    told = about(known[name], installed()[name], settings)
    if as_json:
        _print_json(told)
    else:
        print("\n".join(page(told)))
    return 1 if told["faults"] else 0


def _new_plugin(options: argparse.Namespace) -> int:
    from gatehook.commands.scaffold import write

    folder, files = write(options.kind, options.name, options.into)
    print(f"{folder}: {', '.join(files)}")
    print(f"It works as it is. Next:\n  cd {shlex.quote(str(folder))}")
    print("  python -m pip install --editable '.[dev]'\n  pytest && mypy && ruff check .")
    return 0


def _models(options: argparse.Namespace) -> int:
    from gatehook.app import Gateway

    if options.what:
        return _add_models(options)
    if options.name is not None:
        raise StartupError("--name is for what `gatehook models add PATH` adds")
    gateway = Gateway(_settings(options))
    if options.params is not None:
        return _params(gateway, options.params, options.json)
    targets = gateway.settings.targets
    if options.json:
        _print_json(
            [
                {
                    "name": target.name,
                    "deployment": target.key,
                    "vendor": target.vendor,
                    "model": target.model,
                    "base_url": target.base_url or None,
                    "available": not target.unavailable,
                    "reason": target.unavailable or None,
                }
                for target in targets
            ]
        )
        return 0
    rows = [(t.name, t.key, t.vendor, t.model, f"off: {t.unavailable}" if t.unavailable else "on") for t in targets]
    _print_table(("NAME", "DEPLOYMENT", "VENDOR", "UPSTREAM MODEL", "STATE"), rows)
    return 0


def _add_models(options: argparse.Namespace) -> int:
    from gatehook.commands.models_add import add

    if options.what[0] != "add" or len(options.what) != 2:
        raise StartupError(f"gatehook models {' '.join(options.what)}: expected `gatehook models add PATH`")
    file, names = add(options.config, Path(options.what[1]), options.name)
    print(f"{file}: added {', '.join(names)}")
    print(f"Talk to it: gatehook chat {names[0]}. A gateway that is running takes it over by: gatehook reload")
    return 0


def _chat(options: argparse.Namespace) -> int:
    from gatehook.commands.terminal import chat

    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    return chat(options.config, options.model, options.key)


def _params(gateway: Any, name: str, as_json: bool) -> int:
    vendors = list(dict.fromkeys(target.vendor for target in gateway.catalog.group(name))) or [name.lower()]
    tables: dict[str, Any] = {}
    for vendor_name in vendors:
        vendor = gateway.vendors.get(vendor_name)
        if vendor is None:
            known = ", ".join([*gateway.catalog.groups(), *gateway.vendors])
            raise StartupError(f"there is no model and no vendor {name!r}; there are: {known}")
        tables[vendor_name] = {
            operation: vendor.parameters.get(operation, {}) for operation in sorted(vendor.operations)
        }
    if as_json:
        _print_json(
            {
                vendor_name: {operation: _rules(table) for operation, table in operations.items()}
                for vendor_name, operations in tables.items()
            }
        )
        return 0
    for vendor_name, operations in tables.items():
        for operation, table in operations.items():
            print(f"\n{operation} at vendor {vendor_name}:")
            if table:
                _print_table(
                    ("PARAMETER", "BECOMES", "AS / WHY"), [(p, r.disposition, r.note) for p, r in sorted(table.items())]
                )
                print("Any other parameter is dropped, and named in the X-Gatehook-Dropped-Params header.")
            else:
                print("Every parameter goes through as the client sent it, unknown ones included.")
    return 0


def _rules(table: Any) -> dict[str, Any]:
    return {name: {"disposition": rule.disposition, "note": rule.note} for name, rule in table.items()}


def _schema(options: argparse.Namespace) -> int:
    from gatehook.config.settings import json_schema
    from gatehook.loader.loading import installed, settings_classes

    _print_json(json_schema(settings_classes(installed())))
    return 0


_COMMANDS = {
    "serve": _serve,
    "reload": _reload,
    "check": _check,
    "plugins": _plugins,
    "new-plugin": _new_plugin,
    "models": _models,
    "chat": _chat,
    "schema": _schema,
}


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head) - 1)]
    for row in [head, *rows]:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())
