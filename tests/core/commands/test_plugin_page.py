"""`gatehook plugins`, of all and of one: what a plugin does, what it is set to, and where each value comes from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr

from gatehook.commands.cli import main
from gatehook.commands.plugin_page import shown, type_name

Distribution = Callable[..., None]

SOURCE = '''
from gatehook import DATABASE, Section, SecretStr, hookimpl
from pydantic import Field
class Acme:
    """Speaks with Acme.

    And more of it.
    """
    class Settings(Section):
        url: str = Field(default="http://acme.example", description="where Acme is")
        key: SecretStr
        keys: dict[str, SecretStr] = {}
        names: list[str] = []
        proxy: str = Field(default="", repr=False)
        wait: float = 1.5
    requires = (DATABASE,)
    def __init__(self, settings): raise SystemExit("a page never builds what is off")
    @hookimpl
    def register_caches(self): return []
'''


@pytest.fixture
def program(
    tmp_path: Path, distribution: Distribution, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `gatehook plugins` with the plugin `acme` installed, and settings in several layers."""

    def run(*words: str, source: str = SOURCE, settings: str = "enabled = false\n") -> tuple[int, str, str]:
        distribution("gatehook-acme", {"acme": "specimen_acme:Acme"}, specimen_acme=source)
        file = tmp_path / "settings.toml"
        file.write_text(f"[plugins.health]\n[plugins.acme]\nnames = ['a']\nwait = 2.5\nurl = 'x'\n{settings}", "utf-8")
        (tmp_path / "settings.local.toml").write_text(
            "[plugins.acme]\nurl = 'https://bob:hunter22@acme.example'\nnames = ['b']\nproxy = 'http://a:hunter22@p'\n"
        )
        (tmp_path / ".secrets.toml").write_text("[plugins.acme]\nkeys = { alice = 'hunter22-of-alice' }\n")
        monkeypatch.setenv("GATEHOOK_PLUGINS__ACME__KEY", "hunter22-of-all")
        monkeypatch.setenv("GATEHOOK_PLUGINS__ACME__WAIT", "3.5")
        status = main(["plugins", *words, "--config", str(file)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


# --- one plugin ----------------------------------------------------------------------------------------------------


def test_all_is_told_of_a_plugin_also_of_one_that_is_off(program: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = program("acme", "--json")
    told = json.loads(out)
    assert (status, err, told.pop("faults")) == (0, "", [])
    assert told.pop("file").endswith("specimen_acme.py")
    settings = {one.pop("key"): one for one in told.pop("settings")}
    assert told == {
        "name": "acme",
        "state": "off",
        "distribution": "gatehook-acme",
        "version": "7.1",
        "class": "specimen_acme:Acme",
        "summary": "Speaks with Acme.",
        "hooks": ["register_caches"],
        "requires": [{"service": "database", "plugin": "database"}],
    }
    assert settings["url"] == {
        "type": "str",
        "meaning": "where Acme is",
        "required": False,
        "default": "http://acme.example",
        "value": "https://…@acme.example",
        "from": ["settings.local.toml"],
    }
    assert settings["enabled"]["from"] == ["settings.toml"]
    assert settings["order"]["from"] == []
    assert settings["wait"]["value"] == 3.5
    assert settings["wait"]["from"] == ["$GATEHOOK_PLUGINS__ACME__WAIT"]
    assert settings["names"]["value"] == ["a", "b"]
    assert settings["names"]["from"] == ["settings.toml", "settings.local.toml"]
    assert settings["key"]["required"]
    assert settings["key"]["value"] == "(secret)"
    assert settings["keys"]["value"] == {"alice": "(secret)"}
    assert settings["keys"]["from"] == [".secrets.toml"]
    assert settings["proxy"]["value"] == "(secret)"


@pytest.mark.parametrize("words", [["acme"], ["acme", "--json"]])
def test_no_secret_is_printed(program: Callable[..., tuple[int, str, str]], words: list[str]) -> None:
    status, out, err = program(*words)
    assert status == 0
    assert "hunter22" not in out + err
    assert "(secret)" in out


def test_the_page_for_people(program: Callable[..., tuple[int, str, str]]) -> None:
    lines = program("acme")[1].splitlines()
    assert lines[:3] == ["acme: off, from gatehook-acme 7.1", "  Speaks with Acme.", "  class: specimen_acme:Acme"]
    assert lines[4:8] == ["  hooks: caches", "  needs: database (of database)", "", "[plugins.acme]"]
    assert "wait = 3.5  # $GATEHOOK_PLUGINS__ACME__WAIT" in lines
    assert lines[lines.index("wait = 3.5  # $GATEHOOK_PLUGINS__ACME__WAIT") + 1] == "    float, default 1.5"
    assert 'url = "https://…@acme.example"  # settings.local.toml' in lines
    assert "order = 0  # the default" in lines


@pytest.mark.parametrize(
    ("source", "settings", "told"),
    [
        ("import no_such_module", "", "cannot be imported: ModuleNotFoundError"),
        ("import no_such_module", "enabled = false", "cannot be imported: ModuleNotFoundError"),
        ("class Acme: ...", "enabled = false", "the class needs `Settings`"),
        (SOURCE, "", "cannot be built: SystemExit"),
        (SOURCE, "no_such_key = 1", "no_such_key: unknown key"),
    ],
)
def test_a_broken_plugin_s_page_says_what_is_wrong(
    program: Callable[..., tuple[int, str, str]], source: str, settings: str, told: str
) -> None:
    status, out, err = program("acme", source=source, settings=settings)
    assert status == 1
    assert told in out
    assert "Traceback" not in out + err


def test_a_name_that_nobody_has_is_told_with_those_there_are(program: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = program("acne")
    assert (status, out) == (1, "")
    assert err.startswith("there is no plugin 'acne'; there are: acme, ")


# --- all plugins ---------------------------------------------------------------------------------------------------


def test_a_broken_plugin_does_not_hide_the_list(program: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = program(source="import no_such_module", settings="")
    states = {line.split()[0]: line.split()[3] for line in out.splitlines()[1:]}
    assert status == 1
    assert (states["acme"], states["health"], states["metrics"]) == ("broken", "on", "off")
    assert err.startswith("plugin 'acme' (gatehook-acme 7.1): cannot be imported: ")


def test_a_skipped_plugin_is_no_fault_of_the_list(program: Callable[..., tuple[int, str, str]]) -> None:
    settings = "on_error = 'skip'\nguards = false\n"
    status, out, err = program("--json", source="import no_such_module", settings=settings)
    states = {one["name"]: one["state"] for one in json.loads(out)}
    assert (status, err, states["acme"]) == (0, "", "skipped")


# --- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        (int, "int"),
        (bool | None, "bool | unset"),
        (Literal["a", False], '"a" | false'),
        (list[str], "list of str"),
        (tuple[int, ...], "list of int"),
        (dict[str, list[SecretStr]], "table of list of secret"),
        (Annotated[float, Field(gt=0)], "float"),
        (list, "list"),
        (Any, "Any"),
    ],
)
def test_types_are_told_as_people_say_them(annotation: Any, told: str) -> None:
    assert type_name(annotation) == told


def test_what_is_shown_of_values() -> None:
    assert shown([SecretStr("x"), SecretStr(""), {"a": (1, None)}, "postgresql://u:p@h/d"]) == [
        "(secret)",
        "",
        {"a": [1, None]},
        "postgresql://…@h/d",
    ]
