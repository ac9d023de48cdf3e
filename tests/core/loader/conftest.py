"""What the loader says of plugins that a test defines, and of those that are installed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gatehook import StartupError
from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.testing import built


def faults(*classes: type, settings: str = "", **named: type) -> list[str]:
    """What the loader says of plugins that are switched on: `classes` under "specimen", "specimen2" …"""
    plugins = {f"specimen{place or ''}": cls for place, cls in enumerate(classes)} | named
    text = settings + "".join(f"[plugins.{name}]\n" for name in plugins if f"[plugins.{name}]" not in settings)
    with pytest.raises(StartupError) as caught:
        built(text, plugins=plugins)
    return caught.value.faults


@pytest.fixture(name="faults")
def faults_fixture() -> Callable[..., list[str]]:
    """Tells what the loader says of plugins that are switched on."""
    return faults


def gateway(tmp_path: Path, text: str) -> Gateway:
    """A gateway over what is really installed."""
    file = tmp_path / "settings.toml"
    file.write_text(text, "utf-8")
    return Gateway(load(file, environ={}))


@pytest.fixture(name="gateway")
def gateway_fixture() -> Callable[[Path, str], Gateway]:
    """Builds a gateway over what is really installed."""
    return gateway


def faults_of(tmp_path: Path, text: str) -> list[str]:
    """What the loader says of such a gateway."""
    with pytest.raises(StartupError) as caught:
        gateway(tmp_path, text)
    return caught.value.faults


@pytest.fixture(name="faults_of")
def faults_of_fixture() -> Callable[[Path, str], list[str]]:
    """Tells what the loader says of a gateway over what is really installed."""
    return faults_of
