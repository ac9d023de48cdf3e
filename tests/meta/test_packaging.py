"""What is installed is what the tree says; each plugin stands alone; the tree is tidy."""

import re
import tomllib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

from gatehook.errors import StartupError
from gatehook.loader.loading import GROUP, installed
from gatehook.testing import built

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
OURS = sorted(PROJECT["project"]["entry-points"][GROUP])


def test_the_installed_entry_points_are_those_of_pyproject() -> None:
    found = {
        entry.name: entry.value
        for entry in entry_points(group=GROUP)
        if entry.dist is not None and entry.dist.name == "gatehook"
    }
    assert found == PROJECT["project"]["entry-points"][GROUP], "entry points are a snapshot: run `make install` again"


def test_the_installed_version_is_that_of_pyproject() -> None:
    assert distribution("gatehook").version == PROJECT["project"]["version"], "run `make install` again"


MINIMAL = {
    "auth_jwt": 'secret = "0123456789abcdef0123456789abcdef"',
    "auth_keys": 'admin_keys = ["0123456789abcdef"]',
}
"""What a plugin cannot do without in its section."""


@pytest.mark.parametrize("name", OURS)
def test_every_plugin_loads_with_all_others_off(name: str) -> None:
    try:
        gateway = built(f"[plugins.{name}]\n{MINIMAL.get(name, '')}\n")
    except StartupError as error:
        faults = error.faults
    else:
        assert gateway.plugins.names == (name,)
        assert next(one.hooks for one in gateway.plugins.report() if one.name == name), "without a hook it does nothing"
        return
    # A plugin that needs another's service says which plugin to enable, and nothing else is wrong.
    needed = [re.search(r"enable \[plugins\.(\w+)\]$", fault) for fault in faults]
    assert all(match and match[1] in installed() for match in needed), faults


def test_all_plugins_load_together() -> None:
    settings = "".join(f"[plugins.{name}]\n{MINIMAL.get(name, '')}\n" for name in OURS)
    assert sorted(built(settings).plugins.names) == OURS


def test_a_gateway_without_any_plugin_can_be_built() -> None:
    assert built("").plugins.names == ()


# --- the tree ------------------------------------------------------------------------------------------------------

SKIPPED = {".git", ".venv", "dist", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
TEXTS = {".py", ".md", ".toml", ".json", ".yaml", ".yml", ".cfg", ".txt", ".sh", ""}


def tracked() -> list[Path]:
    """The tree's text files."""
    return sorted(
        path
        for path in ROOT.rglob("*")
        if path.is_file()
        and not SKIPPED & set(path.relative_to(ROOT).parts)
        and not any(part.endswith(".egg-info") for part in path.parts)
        and path.suffix in TEXTS
    )


# Written in halves, so that this file does not hold what it looks for.
FORBIDDEN = ["/work" + "/", "../" + "shared", "/ro" + "ot/", "/ho" + "me/", "DESIGN" + ".md", "anchors" + ".md"]


def test_no_file_mentions_the_place_where_it_was_written() -> None:
    files = tracked()
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in files
        for word in FORBIDDEN
        if word in path.read_text("utf-8", errors="replace")
    ]
    assert found == []


def test_every_source_file_can_be_read_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for place in ("core", "plugins", "contrib")
        for path in (ROOT / place).rglob("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) >= 500
    }
    assert long == {}


def test_every_file_ends_with_one_newline_and_holds_no_tab_or_carriage_return() -> None:
    for path in tracked():
        text = path.read_bytes()
        if text and path.name != "Makefile":
            assert text.endswith(b"\n"), path
            assert b"\r\n" not in text, path
            assert not (path.suffix == ".py" and b"\t" in text), path


def test_typed_packages_say_so() -> None:
    for package in ("core/gatehook", "plugins/gatehook_plugins"):
        assert (ROOT / package / "py.typed").is_file()
