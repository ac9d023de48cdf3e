"""`gatehook check` tells what nobody can use as the settings are, though nothing in them is wrong."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from gatehook import ModelKey, ModelName, Section
from gatehook.commands.cli import main
from gatehook.config.references import references

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
        (
            SERVED
            + '[plugins.vendor_mock]\n[[models]]\nname = "m"\nvendor = "mock"\n'
            + 'capabilities = ["text-generation", "vison", "tools", "Tools", "conversation"]\n',
            [
                "m#1: capabilities: 'vison' decides nothing; did you mean 'vision'?",
                "m#1: capabilities: 'Tools' decides nothing; did you mean 'tools'?",
            ],
        ),
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


NAMES = """
[[models]]
name = "large"
aliases = ["big"]
vendor = "mock"
[[models]]
name = "off"
vendor = "mock"
enabled = false
[[models]]
name = "any/*"
vendor = "mock"
[plugins.vendor_mock]
[plugins.cache.models]
"large" = 1
"big" = 2
"any/*" = 3
"any/one" = 4
"lagre" = 5
[plugins.rate_limit.models."zzzz"]
requests_per_minute = 1
[plugins.tool_policy]
rules = [
    {model = "big", verdict = "deny"}, {model = "l*", verdict = "deny"}, {model = "lerge", verdict = "deny"},
    {verdict = "deny"},
]
[plugins.http_tools.tools.clock]
description = "The time"
url = "https://clock.example/"
models = ["any/two", "off", "offf", "of*"]
[plugins.generate_api]
default_model = "bog"
"""


def notes_on_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str) -> list[str]:
    file = tmp_path / "settings.toml"
    file.write_text(SERVED + settings)
    assert main(["check", "--config", str(file)]) == 0
    return capsys.readouterr().out.splitlines()[:-1]


def test_names_of_no_model_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = "no model of the settings is named"
    assert sorted(notes_on_names(tmp_path, capsys, NAMES)) == [
        "[plugins.cache] models: calls of 'any/one' are served by 'any/*', and only that name counts here",
        "[plugins.cache] models: calls of 'big' are served by 'large', and only that name counts here",
        f"[plugins.cache] models: {named} 'lagre'; did you mean 'large'?",
        f"[plugins.generate_api] default_model: {named} 'bog'; did you mean 'big'?",
        f"[plugins.http_tools] tools.clock.models: {named} 'offf'; did you mean 'off'?",
        f"[plugins.rate_limit] models: {named} 'zzzz'",
        f"[plugins.tool_policy] rules.model: {named} 'lerge'; did you mean 'large'?",
    ]


def test_what_only_the_database_may_know_is_noted_as_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = '[plugins.database]\n[plugins.rate_limit.models."of-a-row"]\nrequests_per_minute = 1\n'
    assert notes_on_names(tmp_path, capsys, settings) == [
        "[plugins.rate_limit] models: no model of the settings is named 'of-a-row', but one of the database may be"
    ]


def test_a_field_says_where_it_names_models() -> None:
    class Inner(BaseModel):
        model: ModelName = "default"
        text: str = ""

    class Settings(Section):
        one: ModelName = ""
        some: tuple[ModelName, ...] = ()
        table: dict[str, dict[ModelKey, int]] = Field(default={})
        inner: Inner | None = None
        rows: list[Inner] = Field(default=[])
        plain: list[str] = Field(default=[])

    section = Settings.model_validate(
        {
            "one": "a",
            "some": ["b", "c"],
            "table": {"x": {"d": 1}},
            "inner": {"model": "e", "text": "no"},
            "rows": [{"model": "f"}, {}],
            "plain": ["no"],
        }
    )
    assert [(place, name, reference.own) for place, name, reference in references(section)] == [
        ("one", "a", False),
        ("some", "b", False),
        ("some", "c", False),
        ("table.x", "d", True),
        ("inner.model", "e", False),
        ("rows.model", "f", False),
    ]
