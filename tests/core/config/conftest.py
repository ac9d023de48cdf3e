"""Settings files of one test, and what they are loaded to."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatehook.config.settings import (
    Section,
    Settings,
    load,
)
from gatehook.errors import StartupError


@pytest.fixture(autouse=True)
def environment_is_left_alone() -> Iterator[None]:
    def variables() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}

    before = variables()
    yield
    assert variables() == before


class Files:
    """Settings files in one directory, and what loading them gives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "settings.toml"

    def write(self, main: str = "", local: str | None = None, secrets: str | None = None) -> "Files":
        for name, text in (("settings.toml", main), ("settings.local.toml", local), (".secrets.toml", secrets)):
            if text is not None:
                (self.directory / name).write_text(text, encoding="utf-8")
        return self

    def load(self, **environ: str) -> Settings:
        return load(self.path, environ)

    def faults(self, **environ: str) -> list[str]:
        with pytest.raises(StartupError) as caught:
            self.load(**environ)
        return caught.value.faults

    def section_faults(self, name: str, cls: type[Section], **environ: str) -> list[str]:
        settings = self.load(**environ)
        with pytest.raises(StartupError) as caught:
            settings.plugin_section(name, cls)
        return caught.value.faults


@pytest.fixture
def at(tmp_path: Path) -> Files:
    return Files(tmp_path)
