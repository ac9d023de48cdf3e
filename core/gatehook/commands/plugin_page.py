"""All that can be told of one plugin: `gatehook plugins NAME`."""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gatehook.config.sections import Section
from gatehook.config.settings import Settings
from gatehook.errors import StartupError, redact
from gatehook.loader.loading import class_faults, hook_names, imported
from gatehook.loader.plugins import PluginInfo

__all__ = ["about", "page"]

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""The user and password in a URL."""


def about(info: PluginInfo, entry: EntryPoint, settings: Settings) -> dict[str, Any]:
    """What the plugin is, does, and is set to; imports it, even if it is switched off.

    Args:
        info: what is known without importing it.
        entry: its entry point.
        settings: where its table is read from.

    Returns:
        JSON values without secrets. If `faults` says that it cannot be loaded, what loading would tell is left out.
    """
    told: dict[str, Any] = {
        "name": info.name,
        "state": info.state,
        "distribution": info.distribution,
        "version": info.version,
        "class": entry.value,
        "faults": list(info.faults),
    }
    try:
        cls = imported(info.name, entry)
    except StartupError as error:
        return told | {"faults": told["faults"] or error.faults}
    if faults := class_faults(info.name, entry, cls):
        return told | {"faults": told["faults"] or faults}
    return told | {
        "file": getattr(sys.modules.get(cls.__module__), "__file__", None),
        "summary": (inspect.getdoc(cls) or "").partition("\n")[0],
        "hooks": [hook for hook in hook_names() if hasattr(cls, hook)],
        "requires": [{"service": key.name, "plugin": key.provider} for key in getattr(cls, "requires", ())],
        "settings": _settings(info.name, cls.Settings, settings),
    }


def _settings(name: str, cls: type[Section], settings: Settings) -> list[dict[str, Any]]:
    """Every key with its type, meaning, default and value, and the layers that set it."""
    try:
        section: Section | None = settings.plugin_section(name, cls)
    except StartupError:  # told among the faults
        section = None
    return [
        {
            "key": key,
            "type": type_name(field.annotation),
            "meaning": field.description or "",
            "required": field.is_required(),
            "default": None if field.is_required() else shown(field.get_default(call_default_factory=True), field),
            "value": None if section is None else shown(getattr(section, key), field),
            "from": settings.layers_that_set("plugins", name, key),
        }
        for key, field in cls.model_fields.items()
    ]


def type_name(annotation: Any) -> str:
    """A type in words for people."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is NoneType:
        return "unset"
    if hasattr(annotation, "__value__"):  # type X = …
        return type_name(annotation.__value__)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " | ".join(map(_text, arguments))
    if origin is None:
        return "secret" if annotation is SecretStr else getattr(annotation, "__name__", str(annotation))
    inside = [type_name(one) for one in arguments if one is not Ellipsis]
    if isinstance(origin, type) and issubclass(origin, Mapping | Sequence | set | frozenset):
        return f"{'table' if issubclass(origin, Mapping) else 'list'} of {inside[-1] if inside else 'anything'}"
    return " | ".join(inside)


def shown(value: Any, field: FieldInfo | None = None) -> Any:
    """A value as JSON can say it, without secrets."""
    if isinstance(value, SecretStr) or (field is not None and field.repr is False):
        return "(secret)" if value else ""
    if isinstance(value, BaseModel):
        return {key: shown(getattr(value, key), one) for key, one in type(value).model_fields.items()}
    if isinstance(value, Mapping):
        return {str(key): shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [shown(item) for item in value]
    if isinstance(value, bool | int | float | None):
        return value
    return redact(_PASSWORD.sub("…", str(value)))


def page(told: Mapping[str, Any]) -> list[str]:
    """What `about` returns, as lines for people."""
    lines = [f"{told['name']}: {told['state']}, from {told['distribution']} {told['version']}"]
    lines += [f"  {told['summary']}"] if told.get("summary") else []
    lines += [f"  fault: {fault}" for fault in told["faults"]]
    if "hooks" not in told:
        return lines
    needs = [f"{one['service']} (of {one['plugin']})" for one in told["requires"]]
    hooks = [hook.removeprefix("register_") for hook in told["hooks"]]
    lines += [f"  class: {told['class']}", f"  file:  {told['file']}", f"  hooks: {', '.join(hooks) or '-'}"]
    lines += [f"  needs: {', '.join(needs)}"] if needs else []
    lines += ["", f"[plugins.{told['name']}]"]
    for one in told["settings"]:
        default = "required" if one["required"] else f"default {_text(one['default'])}"
        value = "?" if one["value"] is None and one["required"] else _text(one["value"])
        lines.append(f"{one['key']} = {value}  # {', '.join(one['from']) or 'the default'}")
        lines.append(f"    {one['type']}, {default}" + (f": {one['meaning']}" if one["meaning"] else ""))
    return lines


def _text(value: Any) -> str:
    """A value nearly as in TOML."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_text(item)}" for key, item in value.items()) + " }" if value else "{}"
    return str(value)
