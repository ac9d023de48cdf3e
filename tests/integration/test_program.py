"""The other commands of the `gatehook` program, in this process."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from gatehook.commands.cli import main

Text = Callable[..., str]


@pytest.fixture
def settings_file(settings_text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("GATEHOOK_", "LISTEN_MODE", "UDS_PATH")):
            monkeypatch.delenv(name)
    file = tmp_path / "settings.toml"
    off = {"name": "off", "vendor": "openai", "api_key": "env:NOT_SET_ANYWHERE"}
    secret = {
        "name": "m",
        "vendor": "openai",
        "api_key": "sk-very-secret-0123456789",
        "base_url": "http://127.0.0.1:1/v1",
    }
    file.write_text(
        settings_text(secret, off, {"name": "claude", "vendor": "anthropic", "api_key": "sk-very-secret-2"})
    )
    return file


Captured = pytest.CaptureFixture[str]


def test_check_says_fine(settings_file: Path, capsys: Captured) -> None:
    assert main(["check", "--config", str(settings_file)]) == 0
    out, err = capsys.readouterr()
    assert "fine" in out
    assert err == ""


def test_check_tells_every_fault(settings_file: Path, capsys: Captured) -> None:
    settings_file.write_text(
        '[server]\nhost = "0.0.0.0"\n[plugins.vendor_openai]\n[[models]]\nname = "m"\nvendor = "nobody"\n'
        '[[models]]\nname = "n"\nvendor = "openai"\noptions = { heders = {} }\n'
    )
    assert main(["check", "--config", str(settings_file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "nobody" in err
    assert "heders" in err
    assert "can be reached from other machines" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nprot = 1\n", "prot"),
        ("[server\n", "not valid TOML"),
        ("[plugins.vendor_opnai]\n", "vendor_openai"),
        ("[sever]\n", "sever"),
        ('[[models]]\nname = "m"\n', "vendor"),
        ("\xff", "settings.toml"),
    ],
)
def test_faulty_settings_are_told_without_a_traceback(
    settings_file: Path, capsys: Captured, text: str, says: str
) -> None:
    settings_file.write_text(text, "latin-1")
    for command in ("check", "plugins", "models"):
        assert main([command, "--config", str(settings_file)]) == 1
        out, err = capsys.readouterr()
        # A name that is no plugin's does not keep `plugins` from telling which there are.
        assert out == "" or (command == "plugins" and out.startswith("NAME "))
        assert says in err
        assert "Traceback" not in err


def test_missing_settings_are_told(tmp_path: Path, capsys: Captured) -> None:
    assert main(["check", "--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml" in capsys.readouterr().err


def test_plugins_are_listed_on_and_off(settings_file: Path, capsys: Captured) -> None:
    assert main(["plugins", "--config", str(settings_file)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " on " in rows["vendor_openai"]
    assert " off " in rows["auth_keys"]
    assert main(["plugins", "--json", "--config", str(settings_file)]) == 0
    report = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert report["vendor_openai"]["enabled"] is True
    assert report["vendor_openai"]["hooks"] == ["register_vendors"]
    assert report["auth_keys"]["enabled"] is False


def test_models_are_listed_without_their_keys(settings_file: Path, capsys: Captured) -> None:
    assert main(["models", "--config", str(settings_file)]) == 0
    out = capsys.readouterr().out
    assert "secret" not in out
    assert "off: " in next(line for line in out.splitlines() if line.startswith("off"))
    assert main(["models", "--json", "--config", str(settings_file)]) == 0
    out = capsys.readouterr().out
    assert "secret" not in out
    listed = {one["name"]: one for one in json.loads(out)}
    assert (listed["m"]["available"], listed["m"]["base_url"]) == (True, "http://127.0.0.1:1/v1")
    assert (listed["off"]["available"], "NOT_SET_ANYWHERE" in listed["off"]["reason"]) == (False, True)


@pytest.mark.parametrize(
    ("name", "says"), [("m", "goes through"), ("openai", "goes through"), ("claude", "logit_bias"), ("gemini", "seed")]
)
def test_the_fate_of_parameters_is_told(settings_file: Path, capsys: Captured, name: str, says: str) -> None:
    assert main(["models", "--params", name, "--config", str(settings_file)]) == 0
    assert says in capsys.readouterr().out
    assert main(["models", "--params", name, "--json", "--config", str(settings_file)]) == 0
    for operations in json.loads(capsys.readouterr().out).values():
        for table in operations.values():
            assert all(rule["disposition"] in ("mapped", "dropped", "refused") for rule in table.values())


def test_the_fate_of_parameters_of_nobody_is_a_fault(settings_file: Path, capsys: Captured) -> None:
    assert main(["models", "--params", "nobody", "--config", str(settings_file)]) == 1
    assert "nobody" in capsys.readouterr().err


def test_the_schema_is_a_schema_that_takes_the_settings(settings_file: Path, capsys: Captured) -> None:
    import tomllib

    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(settings_file.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"server": {"prot": 1}}, schema)


@pytest.mark.parametrize("words", [[], ["--nonsense"], ["check", "--nonsense"], ["models", "--params"]])
def test_wrong_usage_ends_with_2(words: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_an_unknown_command_names_those_there_are(
    settings_file: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEHOOK_CONFIG", str(settings_file))
    with pytest.raises(SystemExit) as ended:
        main(["serv"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "serv" in err
    assert "serve, reload, check" in err


def test_check_tells_the_faults_of_every_room_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        "[server]\nprot = 1\n[failover]\nretries = -1\n[plugins.health]\nstyle = 'nope'\n[plugins.metricks]\n"
        "[plugins.openai_api]\ncolour = 1\n[plugins.vendor_mock]\n"
        "[[models]]\nname = 'a'\nvendor = 'nobody'\n[[models]]\nname = 'b'\nvendor = 'mock'\noptions = { speed = 1 }\n"
        "[[models]]\nname = 'c'\nvendor = 'mock'\nkey = 'x'\n"
    )
    assert main(["check", "--config", str(file)]) == 1
    told = capsys.readouterr().err
    expected = [
        "[server] prot", "[failover] retries", "[plugins.health] style", "[plugins.metricks]",
        "[plugins.openai_api] colour",
        "[[models]] a#1: no enabled plugin provides", "[[models]] b#1: options", "[[models]] #3 (c) key",
    ]  # fmt: skip
    assert [part for part in expected if part not in told] == []
    assert len(told.splitlines()) == len(expected)


def test_check_tells_what_is_unsafe_beside_other_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[server]\nhost = '0.0.0.0'\n[plugins.health]\nstyle = 'nope'\n")
    assert main(["check", "--config", str(file)]) == 1
    told = capsys.readouterr().err
    assert "[plugins.health] style" in told
    assert "can be reached from other machines" in told
