"""`gatehook check` tells what nobody can use as the settings are, though nothing in them is wrong."""

from pathlib import Path

import pytest

from gatehook.commands.cli import main

MODEL = """
[plugins.vendor_openai]
[[models]]
name = "m"
vendor = "openai"
api_key = "env:THERE_IS_NO_SUCH_KEY"
"""
SERVED = "[plugins.openai_api]\n[plugins.route_models]\n"


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        (
            MODEL,
            [
                "m#1: not served: its api_key refers to $THERE_IS_NO_SUCH_KEY, which is not set",
                "no API that takes calls of models is switched on, such as [plugins.openai_api]",
                "no router that finds models by their names is switched on, such as [plugins.route_models]",
            ],
        ),
        (SERVED + MODEL.replace("env:THERE_IS_NO_SUCH_KEY", "sk-written-here"), []),
        ("[plugins.health]\n", []),
    ],
)
def test_models_that_nobody_can_call_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, notes: list[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(settings)
    assert main(["check", "--config", str(file)]) == 0
    *told, last = capsys.readouterr().out.splitlines()
    assert told == notes
    assert last.startswith(f"{file}: fine; ")
