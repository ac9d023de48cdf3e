"""Distributions with plugins, installed for one test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Distribution = Callable[..., None]


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribution]:
    """Installs distributions for one test: a name, its entry points, its modules' source, and what it requires."""
    before = set(sys.modules)

    def install(name: str, plugins: dict[str, str], requires: str = "", **modules: str) -> None:
        site = tmp_path / f"site-{name}"
        info = site / f"{name.replace('-', '_')}-7.1.dist-info"
        info.mkdir(parents=True)
        asked = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 7.1\n{asked}", "utf-8")
        lines = "".join(f"{plugin} = {value}\n" for plugin, value in plugins.items())
        (info / "entry_points.txt").write_text(f"[gatehook]\n{lines}", "utf-8")
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source, "utf-8")
        monkeypatch.syspath_prepend(str(site))

    yield install
    for module in set(sys.modules) - before:
        if module.startswith("specimen_"):
            del sys.modules[module]
