"""Settings: layers stacked by dynaconf, tables typed by pydantic-settings, and every fault reported with its place.

The layers, the weakest first: `settings.toml`, `settings.local.toml`, `.secrets.toml`, then the environment:
`GATEHOOK_A__B__C` is the key c of [a.b], and LISTEN_MODE with UDS_PATH choose the socket. Tables are merged key by key
and lists are joined (so a local file adds [[models]]), but a list from the environment, written as JSON, replaces.
"""

import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import SecretStr

from gatehook.config import env_layer
from gatehook.config.env_layer import PREFIX
from gatehook.config.model_faults import faults_among
from gatehook.config.reading import Layer, Layers, MissingSecretError, Reading, find_secret, nearest, table_at, value_at
from gatehook.config.sections import (
    ByteSize,
    DatabaseSettings,
    EgressSettings,
    FailoverSettings,
    LimitSettings,
    ModelSettings,
    RedisSettings,
    Seconds,
    Section,
    ServerSettings,
    Table,
    ToolSettings,
)
from gatehook.errors import StartupError, raise_or_gather
from gatehook.model import Target

__all__ = [
    "TABLES",
    "ByteSize",
    "DatabaseSettings",
    "EgressSettings",
    "FailoverSettings",
    "LimitSettings",
    "ModelSettings",
    "RedisSettings",
    "Seconds",
    "SecretStr",
    "Section",
    "ServerSettings",
    "Settings",
    "Table",
    "ToolSettings",
    "json_schema",
    "load",
    "located",
]

SectionT = TypeVar("SectionT", bound=Section)

TABLES: Final[Mapping[str, type[Table]]] = {
    "server": ServerSettings,
    "egress": EgressSettings,
    "failover": FailoverSettings,
    "tools": ToolSettings,
    "database": DatabaseSettings,
    "redis": RedisSettings,
}
"""The kernel's own tables. A new one needs a line here and a field of the same name in `Settings`."""

_TOP: Final = (*TABLES, "models", "plugins")
_OFF: Final = frozenset({"false", "0", "off", "f", "no", "n"})  # the words that pydantic reads as False
_MARKERS: Final = frozenset({"dynaconf_merge", "dynaconf_merge_unique"})
_SHORTEST_SECRET: Final = 8
"""Characters of a value that is hidden where it stands; hiding shorter ones would redact innocent words of messages."""
_REFERENCE: Final = re.compile(r"\benv:\s*([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Settings:
    """What `load` read: the kernel's tables, the models, and the plugins' sections, to be typed by `plugin_section`."""

    server: ServerSettings
    egress: EgressSettings
    failover: FailoverSettings
    tools: ToolSettings
    database: DatabaseSettings
    redis: RedisSettings
    models: tuple[ModelSettings, ...]
    """Every [[models]] entry, also those that are switched off."""
    targets: tuple[Target, ...]
    """The deployments: the entries that are switched on, in order, with the keys "name#1", "name#2" for each name."""
    path: Path
    """The absolute path of the settings file; the other files are looked for beside it."""
    layers: tuple[str, ...]
    """The layers that were read, the weakest first: file names and `$VARIABLE`s."""
    _sources: Layers = field(repr=False, compare=False)

    def plugin_names(self) -> list[str]:
        """The plugins that have a section, on or off, as they are written."""
        return list(table_at(self._sources.merged, ("plugins",)))

    def plugin_enabled(self, name: str) -> bool:
        """Whether the plugin has a section and `enabled` is not false there."""
        sections = table_at(self._sources.merged, ("plugins",))
        return name in sections and not _is_off(sections[name].get("enabled", True))

    def layers_that_set(self, *path: str) -> list[str]:
        """The layers that set a key: the strongest; or all, in their order, if it is a table or list: these merge."""
        found = [layer for layer in self._sources.items if layer.sets(path)]
        merged = found and isinstance(value_at(self._sources.merged, path), dict | list) and not found[-1].is_variable
        return [layer.label for layer in (found if merged else found[-1:])]

    def plugin_common(self, name: str) -> Section:
        """The keys that every plugin's section has (`enabled`, `order` …), even if others in it are wrong.

        Raises:
            StartupError: with every fault of these keys.
        """
        raw = table_at(self._sources.merged, ("plugins", name))
        common = {key: value for key, value in raw.items() if key in Section.model_fields}
        reading = Reading(Section, self._sources, ("plugins", name), common)
        if reading.table is None:
            raise StartupError(*reading.faults)
        return reading.table

    def plugin_section(self, name: str, cls: type[SectionT]) -> SectionT:
        """The plugin's section as `cls`; a missing one is read as empty.

        Raises:
            StartupError: with every fault of the section.
        """
        reading = Reading(cls, self._sources, ("plugins", name))
        if reading.table is None:
            raise StartupError(*reading.faults)
        return reading.table

    def faults_of_plugin_names(self, installed: Collection[str]) -> list[str]:
        """A fault for every [plugins.X] section, on or off, whose plugin is not `installed`."""
        faults = []
        for name in self.plugin_names():
            if name not in installed:
                hint = nearest(name, installed) or "; install what brings it, or remove the table"
                faults.append(f"{self._sources.where(('plugins', name))}: no such plugin is installed{hint}")
        return faults

    def target(self, table: Mapping[str, Any], key: str) -> Target | None:
        """The deployment of a [[models]] table from elsewhere, such as a database; None if it is switched off.

        References in its `api_key` and `options` are looked up as for those of the files. `key` is the deployment's
        ("gpt-4o#1").

        Raises:
            pydantic.ValidationError: a value does not fit.
        """
        values, unavailable, hidden = _looked_up(dict(table), self._sources)
        model = ModelSettings(**values)
        return model.to_target(key, unavailable, hidden) if model.enabled else None


def _is_off(value: object) -> bool:
    return value.lower() in _OFF if isinstance(value, str) else value in (False, 0)


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    gathered: list[str] | None = None,
    referred: Collection[str] = (),
) -> Settings:
    """Read all layers.

    Args:
        path: the settings file; default $GATEHOOK_CONFIG, else settings.toml in the working directory.
        environ: the environment, `os.environ` if None; kept for looking up secrets.
        gathered: faults are added here instead of being raised; a faulty table is then replaced by its defaults, and a
            faulty model left out. Files that cannot be read are still raised.
        referred: variables that are not settings, because something else refers to them as `env:NAME`.

    Raises:
        StartupError: with every fault of the files, the variables, the kernel's tables and the models. The sections of
            plugins are checked by `Settings.plugin_section`.
    """
    environ = dict(os.environ if environ is None else environ)
    path = located(path, environ)
    faults: list[str] = []
    files = _read_files(path)
    variables = _variable_layers(files, environ, faults, referred)
    known = (*_listen_layers(environ, faults), *_model_layers((*files, *variables), environ))
    items = tuple(_sift(layer, faults) for layer in (*files, *variables, *known))
    from gatehook.config.stack import stack

    layers = Layers(items, stack(items), environ, path.parent)

    tables: dict[str, Any] = {}
    for name, cls in TABLES.items():
        reading = Reading(cls, layers, (name,))
        faults += reading.faults
        tables[name] = reading.table or cls()
    models, targets = _read_models(layers, faults)
    raise_or_gather(dict.fromkeys(faults), gathered)
    return Settings(
        **tables, models=models, targets=targets, path=path, layers=tuple(x.label for x in items), _sources=layers
    )


def located(path: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The settings file's absolute path; see `load`.

    Raises:
        StartupError: none is named, and the working directory has none, or is gone.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get("GATEHOOK_CONFIG"):
        path = Path(environ["GATEHOOK_CONFIG"])
    try:
        if path is not None:
            return Path(os.path.abspath(path))  # noqa: PTH100  # not resolve(): the other layers lie beside the link
        default = Path.cwd() / "settings.toml"
    except OSError as error:
        raise StartupError(f"the working directory is gone ({error.strerror}); change to one that is there") from None
    if not default.is_file():
        raise StartupError(f"no settings file: $GATEHOOK_CONFIG is not set, and there is no {default}")
    return default


def _read_files(path: Path) -> list[Layer]:
    """The layers that are files.

    Raises:
        StartupError: for every file that cannot be read; without one of them the others would be misread.
    """
    layers: list[Layer] = []
    faults: list[str] = []
    for file in (path, path.with_name(f"{path.stem}.local{path.suffix}"), path.with_name(".secrets.toml")):
        if file != path and not file.exists():
            continue
        try:
            layers.append(Layer(file.name, tomllib.loads(file.read_text(encoding="utf-8-sig"))))
        except tomllib.TOMLDecodeError as error:
            faults.append(f"{file.name}: not valid TOML: {error}")
        except UnicodeDecodeError as error:
            faults.append(f"{file.name}: not valid UTF-8, at byte {error.start}")
        except OSError as error:
            faults.append(f"{file}: cannot be read: {error.strerror or type(error).__name__}")
    if faults:
        raise StartupError(*faults)
    return layers


def _references(value: Any) -> Iterator[str]:
    """The variables that `value` refers to as `env:NAME`, at any depth; text, which may be JSON, is only searched."""
    if isinstance(value, str):
        yield from _REFERENCE.findall(value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _variable_layers(
    files: Sequence[Layer], environ: Mapping[str, str], faults: list[str], referred: Collection[str]
) -> list[Layer]:
    """A layer for each GATEHOOK_ variable that sets something."""
    settings = [layer.data for layer in files]
    settings += [{name: value} for name, value in environ.items() if name.startswith(PREFIX)]
    but = {*referred, *(name for data in settings for name in _references(data))}
    layers: list[Layer] = []
    for variable, path, value in env_layer.read(environ, but):
        around = next((layer.label for layer in layers if layer.sets(path)), None)
        if "" in path:
            faults.append(f"${variable}: names are joined by two underscores, and none is empty")
        elif len(path) == 1 and path[0] not in _TOP:
            faults.append(f"${variable}: unknown variable{nearest(variable, _known_variables())}")
        elif around:
            faults.append(f"${variable}: {around} sets the whole table already; use one or the other")
        else:
            data: Any = value
            for name in reversed(path):
                data = {name: data}
            layers.append(Layer(f"${variable}", data))
    return layers


def _known_variables() -> list[str]:
    fields = [f"{PREFIX}{name}__{key}".upper() for name, cls in TABLES.items() for key in cls.model_fields]
    return [*fields, "GATEHOOK_CONFIG", "GATEHOOK_MODELS"]


def _listen_layers(environ: Mapping[str, str], faults: list[str]) -> list[Layer]:
    """LISTEN_MODE and UDS_PATH, known from other servers: the strongest layer, for the socket alone."""
    mode = environ.get("LISTEN_MODE", "").strip().upper()
    if mode == "UDS" and environ.get("UDS_PATH"):
        return [Layer("$UDS_PATH", {"server": {"uds": environ["UDS_PATH"]}})]
    if mode == "UDS":
        faults.append("$LISTEN_MODE: [server] uds: LISTEN_MODE=UDS needs the path of the socket in $UDS_PATH")
    elif mode == "TCP":
        return [Layer("$LISTEN_MODE", {"server": {"uds": ""}})]
    elif mode:
        faults.append("$LISTEN_MODE: [server] uds: LISTEN_MODE is TCP or UDS")
    return []


def _model_layers(layers: Sequence[Layer], environ: Mapping[str, str]) -> list[Layer]:
    """MAX_CONCURRENT_MODELS, known from other servers; ignored without a table for it, as it switches nothing on."""
    said = environ.get("MAX_CONCURRENT_MODELS", "").strip()
    if not said or not any(layer.sets(("plugins", "vendor_gguf")) for layer in layers):
        return []
    return [Layer("$MAX_CONCURRENT_MODELS", {"plugins": {"vendor_gguf": {"max_concurrent_models": said}}})]


def _sift(layer: Layer, faults: list[str]) -> Layer:
    """`layer` without what is in the wrong place or has the wrong shape, so that the rest can still be checked."""
    sifted: dict[str, Any] = {}
    for name, value in layer.data.items():
        if name not in _TOP:
            kind = "unknown section" if isinstance(value, dict | list) else "a key outside any section"
            faults.append(f"{layer.label}: [{name}]: {kind}{nearest(name, _TOP)}")
        elif _has_marker(value):
            faults.append(f"{layer.label}: [{name}]: dynaconf_merge has no place here: tables and lists always merge")
        elif name == "models":
            if (models := _models_of(layer, value, faults)) is not None:
                sifted[name] = models
        elif not isinstance(value, dict):
            faults.append(f"{layer.label}: [{name}]: expected a table")
        elif name == "plugins":
            wrong = [plugin for plugin, section in value.items() if not isinstance(section, dict)]
            faults += [f"{layer.label}: [plugins.{plugin}]: expected a table" for plugin in wrong]
            sifted[name] = {plugin: section for plugin, section in value.items() if plugin not in wrong}
        else:
            sifted[name] = value
    return Layer(layer.label, sifted)


def _has_marker(value: Any) -> bool:
    """Whether `value` has a merge marker of dynaconf's: misplaced ones crash it, and no setting has such a name."""
    if isinstance(value, dict):
        return not _MARKERS.isdisjoint(value) or any(map(_has_marker, value.values()))
    return isinstance(value, list) and any(
        item in _MARKERS if isinstance(item, str) else _has_marker(item) for item in value
    )


def _models_of(layer: Layer, value: Any, faults: list[str]) -> Any:
    """`value` if it is a list of tables, or JSON text of one from the environment; otherwise None and a fault."""
    models = value
    if layer.is_variable:
        try:
            models = json.loads(value)
        except (TypeError, ValueError, RecursionError):
            models = None
    if isinstance(models, list) and all(isinstance(model, dict) for model in models):
        return value
    how = (
        """expected JSON, as in '[{"name": "a", "vendor": "b"}]'"""
        if layer.is_variable
        else "expected [[models]] tables"
    )
    faults.append(f"{layer.label}: [[models]]: {how}")
    return None


def _read_models(layers: Layers, faults: list[str]) -> tuple[tuple[ModelSettings, ...], tuple[Target, ...]]:
    raw: list[dict[str, Any]] = layers.merged.get("models", [])
    models: dict[int, ModelSettings] = {}
    targets: list[Target] = []
    count: dict[str, int] = {}
    for index, table in enumerate(raw):
        values, unavailable, hidden = _looked_up(table, layers)
        reading = Reading(ModelSettings, layers, ("models", index), values)
        faults += reading.faults
        if reading.table is None:
            continue
        model = models[index] = reading.table
        if model.enabled:
            count[model.name] = count.get(model.name, 0) + 1
            targets.append(model.to_target(f"{model.name}#{count[model.name]}", unavailable, hidden))
    faults += faults_among(models, raw, layers)
    return tuple(models.values()), tuple(targets)


def _looked_up(table: dict[str, Any], layers: Layers) -> tuple[dict[str, Any], str, list[str]]:
    """A model's table with references looked up; why it cannot be called ("" if it can); and its options' secrets."""
    values, unavailable = _with_key(table, layers)
    hidden: list[str] = []
    try:
        values = values | {"options": _with_secrets(values.get("options", {}), layers, hidden)}
    except MissingSecretError as missing:
        unavailable = unavailable or f"a value in its options {missing}"
    hidden += [text for text in _sent_with_all(values.get("options")) if text not in hidden]
    return values, unavailable, hidden


def _sent_with_all(options: Any) -> Iterator[str]:
    """The values of `options.headers` and `options.query`: one may be a secret, even where it is written out.

    In a query, versions are none: what servers say of Azure's `api-version` is to be read.
    """
    headers, query = (table_at(options, (name,)) for name in ("headers", "query"))
    queried = (text for name, text in query.items() if "version" not in name.lower())
    yield from (
        text for text in (*headers.values(), *queried) if isinstance(text, str) and len(text) >= _SHORTEST_SECRET
    )


def _with_key(table: dict[str, Any], layers: Layers) -> tuple[dict[str, Any], str]:
    """A model's table with its key looked up; or without one, and why: a missing key only switches this model off."""
    if not isinstance(table.get("api_key"), str):
        return table, ""
    try:
        return {**table, "api_key": SecretStr(find_secret(table["api_key"], layers.environ, layers.directory))}, ""
    except MissingSecretError as missing:
        return {key: value for key, value in table.items() if key != "api_key"}, f"its api_key {missing}"


def _with_secrets(options: Any, layers: Layers, hidden: list[str]) -> Any:
    """`options` with every `env:` and `file:` reference looked up; what was found is added to `hidden`.

    Raises:
        MissingSecretError: a reference leads nowhere.
    """
    if isinstance(options, dict):
        return {name: _with_secrets(value, layers, hidden) for name, value in options.items()}
    if isinstance(options, list):
        return [_with_secrets(value, layers, hidden) for value in options]
    if isinstance(options, str) and options.startswith(("env:", "file:")):
        found = find_secret(options, layers.environ, layers.directory)
        hidden.append(found)
        return found
    return options


def json_schema(plugin_sections: Mapping[str, type[Section]]) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of a whole settings file, for editors and checks.

    Args:
        plugin_sections: the section class of each plugin, by the plugin's name.
    """
    classes: dict[type[Table], None] = dict.fromkeys([*TABLES.values(), ModelSettings, *plugin_sections.values()])
    from pydantic.json_schema import models_json_schema

    references, schema = models_json_schema([(cls, "validation") for cls in classes], title="Gatehook settings")

    def tables(named: Mapping[str, type[Table]]) -> dict[str, Any]:
        return {name: references[cls, "validation"] for name, cls in named.items()}

    plugins = {"type": "object", "properties": tables(plugin_sections), "additionalProperties": False}
    models = {"type": "array", "items": references[ModelSettings, "validation"]}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "type": "object",
        "properties": {**tables(TABLES), "models": models, "plugins": plugins},
        "additionalProperties": False,
    }
    return dict(_without_password_format(whole))


def _without_password_format(schema: Any) -> Any:
    """The schema with secrets as plain strings: "password" and "writeOnly" make editors hide or refuse `env:NAME`."""
    if isinstance(schema, dict):
        is_secret = schema.get("format") == "password" and schema.get("type") == "string"
        dropped = ("format", "writeOnly") if is_secret else ()
        return {key: _without_password_format(value) for key, value in schema.items() if key not in dropped}
    return [_without_password_format(item) for item in schema] if isinstance(schema, list) else schema
