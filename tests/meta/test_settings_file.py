"""The settings.toml that is shipped: it runs as it is, names every key, and explains each."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gatehook.app import Gateway
from gatehook.commands.cli import main
from gatehook.config.sections import LimitSettings, ModelSettings, PricingSettings, RateLimitSettings, Section
from gatehook.config.settings import TABLES, json_schema, load
from gatehook.loader.loading import installed, settings_classes

ROOT = Path(__file__).parents[2]
FILE = ROOT / "settings.toml"
TEXT = FILE.read_text("utf-8")
TABLE = re.compile(r"\[{1,2}([\w.]+)\]{1,2}\s*(#.*)?")
KEY = re.compile(r"([\w.]+)\s*=\s*(.*)")


def comment_of(line: str) -> str:
    """What a line says after its value."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
    return bare.partition("#")[2].strip()


def keys() -> Iterator[tuple[int, str, str, bool]]:
    """Every key's line number, table, name, and whether it or its table carries a comment."""
    table, said, above = "", False, False
    for number, line in enumerate(TEXT.splitlines(), 1):
        if not line.strip():
            above = False
        elif line.startswith("#"):
            above = True
        elif match := TABLE.fullmatch(line):
            table, said = match[1], bool(match[2]) or above
        elif match := KEY.fullmatch(line):
            yield number, table, match[1], said or bool(comment_of(line))


def test_it_loads_in_an_empty_environment_and_every_plugin_accepts_its_section(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(TEXT, "utf-8")
    gateway = Gateway(load(tmp_path / "settings.toml", environ={}))
    gateway.require_safe()
    assert list(gateway.faults()) == []
    assert "openai_api" in gateway.plugins.names


def test_at_least_one_model_answers_without_any_key(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(TEXT, "utf-8")
    targets = load(tmp_path / "settings.toml", environ={}).targets
    assert [target.name for target in targets if not target.unavailable] == ["mock"]


def test_check_finds_nothing_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "settings.toml"
    copy.write_text(TEXT, "utf-8")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GATEHOOK_CONFIG", "LISTEN_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["check", "--config", str(copy)]) == 0
    assert ": fine; " in capsys.readouterr().out


def test_it_conforms_to_the_schema_that_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(TEXT))


def test_the_schema_refuses_what_the_settings_refuse() -> None:
    validator = jsonschema.Draft202012Validator(json_schema(settings_classes(installed())))
    for wrong in (
        "[sever]",
        "[server]\nprot = 1",
        "[server]\nport = 70000",
        "[plugins.metric]",
        "[[models]]\nname='a'",
    ):
        assert not validator.is_valid(tomllib.loads(wrong)), wrong


@pytest.mark.parametrize("table", TABLES)
def test_it_names_every_key_of_every_kernel_table(table: str) -> None:
    assert set(tomllib.loads(TEXT)[table]) == set(TABLES[table].model_fields)


def test_it_names_every_key_of_a_model() -> None:
    models: list[dict[str, Any]] = tomllib.loads(TEXT)["models"]
    assert {key for model in models for key in model} == set(ModelSettings.model_fields)
    for name, table in (
        ("limits", LimitSettings),
        ("pricing", PricingSettings),
        ("rate_limit", RateLimitSettings),
    ):
        assert {key for model in models for key in model.get(name, {})} == set(table.model_fields), name


@pytest.mark.parametrize("table", TABLES)
def test_its_kernel_values_are_the_defaults(table: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(TEXT, "utf-8")
    assert getattr(load(tmp_path / "settings.toml", environ={}), table) == TABLES[table]()


def test_it_has_a_section_for_every_plugin() -> None:
    ours = {name for name, entry in installed().items() if entry.dist is not None and entry.dist.name == "gatehook"}
    assert set(tomllib.loads(TEXT)["plugins"]) == ours


def test_it_names_every_key_of_every_plugin_s_section() -> None:
    """A key may stand in a comment, where its value is the reader's to give."""
    blocks = re.split(r"^\[plugins\.(\w+)\]", TEXT, flags=re.MULTILINE)
    named = dict(zip(blocks[1::2], blocks[2::2], strict=True))
    for name, cls in settings_classes(installed()).items():
        for key in set(cls.model_fields) - set(Section.model_fields):
            assert re.search(rf"^(# ?)?{key} = ", named[name], re.MULTILINE), f"[plugins.{name}] {key}"


def test_every_key_is_explained_where_it_stands_or_by_its_table_or_where_it_was_first_met() -> None:
    met: set[tuple[str, str]] = set()
    unexplained = []
    for number, table, key, explained in keys():
        if explained:
            met.add((table, key))
        elif (table, key) not in met:
            unexplained.append(f"line {number}: [{table}] {key}")
    assert unexplained == []


def test_no_secret_is_written_into_it() -> None:
    for model in tomllib.loads(TEXT)["models"]:
        assert model.get("api_key", "env:").startswith("env:")


def test_the_values_of_plugins_are_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(TEXT, "utf-8")
    settings = load(tmp_path / "settings.toml", environ={})
    classes = settings_classes(installed())
    for name in settings.plugin_names():
        if settings.plugin_enabled(name):
            assert settings.plugin_section(name, classes[name]) == classes[name](), name
