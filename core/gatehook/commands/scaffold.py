"""`gatehook new-plugin KIND NAME`: a distribution with a plugin that works, for its author to change.

The files come from `templates`: working plugins of an imaginary company, Acme, whose name is replaced.
"""

import ast
import importlib.util
import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final

from msgspec import Struct

from gatehook.errors import StartupError
from gatehook.loader.loading import installed
from gatehook.loader.origins import OURS, origin

__all__ = ["KINDS", "Kind", "rendered", "write"]


class Kind(Struct, frozen=True):
    """One thing that a plugin can be."""

    summary: str
    """What the written plugin does; "Acme" stands for its name."""
    settings: str
    """What an operator adds to settings.toml for it, likewise."""


KINDS: Final[Mapping[str, Kind]] = {
    "vendor": Kind(
        "Acme's models behind Gatehook.",
        '[plugins.acme]\n\n[[models]]\nname = "acme-large"\nvendor = "acme"\nmodel = "large-2"\n'
        'base_url = "https://api.acme.example/generate"\napi_key = "env:ACME_KEY"',
    ),
    "auth": Kind("Lets in who shows a token.", '[plugins.acme]\ntokens = { alice = "env:ALICE_TOKEN" }'),
    "limiter": Kind("Limits how many calls one principal makes at the same time.", "[plugins.acme]\nmost = 8"),
    "router": Kind("One name for several models.", '[plugins.acme]\nname = "best"\nmodels = ["gpt-4o", "mock"]'),
    "cache": Kind("Keeps the last answers in memory.", "[plugins.acme]\nmost = 1000\nseconds = 300"),
    "tool-policy": Kind("Tools that no model may see or call.", '[plugins.acme]\ndenied = ["delete_*"]'),
    "tool": Kind(
        "A tool that the gateway runs: what something costs.", "[plugins.acme]\nprices = { apple = 0.5, pear = 0.75 }"
    ),
    "transform": Kind("Words that no vendor may read.", '[plugins.acme]\nwords = ["Project Blue Sky"]'),
    "observer": Kind("Logs the calls that took long.", "[plugins.acme]\nseconds = 30"),
    "surface": Kind("A dialect of its own for clients, at /acme/generate.", "[plugins.acme]"),
}

_NAME: Final = re.compile(r"[a-z](_?[a-z0-9]){1,23}")
_COMMON: Final = {
    "pyproject.toml": "common/pyproject.toml.txt",
    "README.md": "common/README.md.txt",
    ".github/workflows/ci.yml": "common/ci.yml.txt",
    ".gitignore": "common/gitignore.txt",
}


def write(kind: str, name: str, place: Path) -> tuple[Path, list[str]]:
    """Write a new distribution; returns its folder, and the files in it.

    Args:
        kind: one of KINDS.
        name: the plugin's name in settings.toml.
        place: the folder in which the new one is made.

    Raises:
        StartupError: the name cannot be used, or the folder is not empty, and nothing is written; or writing failed.
    """
    written = rendered(kind, name)
    if faults := _faults_of_name(kind, name, written[f"src/gatehook_{name}/__init__.py"]):
        raise StartupError(*faults)
    folder = place / _distribution(name)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StartupError(f"{folder} is there already; move it away, or choose another --into")
        for path, text in written.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        raise StartupError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return folder, sorted(written)


def rendered(kind: str, name: str) -> dict[str, str]:
    """The files of a distribution, by their paths.

    Raises:
        StartupError: there is no such kind.
    """
    if kind not in KINDS:
        raise StartupError(f"there is no kind of plugin {kind!r}; there are: {', '.join(KINDS)}")
    templates = _COMMON | {
        f"src/gatehook_{name}/__init__.py": f"{kind}/plugin.txt",
        f"tests/test_{name}.py": f"{kind}/test.txt",
    }
    texts = {
        path: (files("gatehook.commands") / "templates" / file).read_text("utf-8") for path, file in templates.items()
    }
    texts[f"src/gatehook_{name}/py.typed"] = ""
    about = {"@SUMMARY@": KINDS[kind].summary, "@SETTINGS@": KINDS[kind].settings, "@REQUIRES@": _requires()}
    return {path: _named(_filled(text, about), name) for path, text in texts.items()}


def _filled(text: str, about: Mapping[str, str]) -> str:
    for place, value in about.items():
        text = text.replace(place, value)
    return text


def _named(text: str, name: str) -> str:
    """A template with its company's name replaced, in each of its spellings; at once, as the new one may hold it."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    spelt = {"gatehook-acme": _distribution(name), "Acme": camel, "ACME": name.upper(), "acme": name}
    return re.sub("|".join(spelt), lambda found: spelt[found[0]], text)


def _distribution(name: str) -> str:
    return "gatehook-" + name.replace("_", "-")


def _requires() -> str:
    """The requirement for versions of Gatehook with this one's plugin API: see "What is promised" in PLUGINS.md."""
    from packaging.version import Version

    mine = Version(version(OURS))
    following = f"{mine.major + 1}" if mine.major else f"0.{mine.minor + 1}"
    return f"gatehook>={mine.major}.{mine.minor},<{following}"


def _faults_of_name(kind: str, name: str, source: str) -> list[str]:
    if not _NAME.fullmatch(name):
        like = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", name.lower())).strip("_0123456789")[:24].rstrip("_")
        hint = f"; how about {like!r}?" if _NAME.fullmatch(like) else ""
        return [f"{name!r} cannot be a plugin's name: 2 to 24 small letters, digits and single underscores{hint}"]
    known = installed()
    for taken in (name, f"{kind}_{name}"):
        if taken in known:
            return [f"there is a plugin {taken!r} already, of {origin(known[taken])}; choose another name"]
    if importlib.util.find_spec(f"gatehook_{name}") is not None:
        return [f"there is a module 'gatehook_{name}' already; choose another name"]
    if clash := _clashes(source):
        return [f"a plugin of this name would call a class {clash}, as one that it imports; choose another name"]
    return []


def _clashes(source: str) -> str:
    """The first class of a module that has the name of something it imports; "" if there is none."""
    body = ast.parse(source).body
    imported = {alias.name for node in body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    return next((node.name for node in body if isinstance(node, ast.ClassDef) and node.name in imported), "")
