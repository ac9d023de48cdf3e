"""Commands that plugins add to the program."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

from gatehook.commands.cli import main

COMMANDS = """
from gatehook import Command, Section, StartupError, hookimpl

class Plugin:
    class Settings(Section): "[plugins.NAME]"
    def __init__(self, settings): pass

    @hookimpl
    def register_commands(self, gateway):
        self.path = gateway.settings.path
        return [
            Command("greet", "Say hello.", self.greet),
            Command("fail", "Fail.", self.fail),
            Command("where", "Tell where.", self.where),
        ]

    def where(self, arguments):
        print(self.path, *arguments)
        return 0

    def greet(self, arguments):
        print("hello", *arguments)
        return len(arguments)

    def fail(self, arguments):
        raise StartupError("the store is locked")
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The `gatehook` program with installed distributions that bring commands."""

    def run(*words: str, plugins: Iterable[str] = ("greeter",), source: str = COMMANDS) -> int:
        for name in plugins:
            info = tmp_path / f"gatehook_{name}-1.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gatehook-{name}\nVersion: 1\n", "utf-8")
            (info / "entry_points.txt").write_text(f"[gatehook]\n{name} = commands_{name}:Plugin\n", "utf-8")
            (tmp_path / f"commands_{name}.py").write_text(source, "utf-8")
        settings = tmp_path / "settings.toml"
        settings.write_text("".join(f"[plugins.{name}]\n" for name in plugins), "utf-8")
        monkeypatch.setenv("GATEHOOK_CONFIG", str(settings))
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in plugins:
            monkeypatch.delitem(sys.modules, f"commands_{name}", raising=False)
        return main(words)

    return run


def test_hook_register_commands_adds_a_command_with_its_words_and_exit_status(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("greet", "--loud", "you") == 2
    assert capsys.readouterr().out == "hello --loud you\n"


def test_a_command_is_of_the_settings_that_are_named(
    program: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[plugins.greeter]\n", "utf-8")
    for words in (("where", "--config", str(other), "x"), ("where", "x", f"--config={other}")):
        assert program(*words, plugins=() if "=" in words[-1] else ("greeter",)) == 0
        assert capsys.readouterr().out == f"{other} x\n"


def test_a_command_s_startup_error_is_told_without_a_traceback(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("fail") == 1
    assert capsys.readouterr().err == "the store is locked\n"


def test_an_unknown_command_names_those_there_are(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        program("gret")
    assert caught.value.code == 2
    known = "serve, reload, check, plugins, new-plugin, models, chat, schema, greet, fail, where"
    assert f"unknown command 'gret'; there are: {known}. " in capsys.readouterr().err


def test_an_unknown_command_names_the_plugins_that_are_off_and_have_some(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program("keys")
    assert capsys.readouterr().err.endswith(
        "A plugin that is off may have it; enabled = true switches one on: "
        "[plugins.database], [plugins.ledger], [plugins.vendor_comfyui]\n"
    )


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"gatehook {version('gatehook')}\n"


def test_what_cannot_be_written_is_told_without_a_traceback() -> None:
    words = [sys.executable, "-m", "gatehook", "schema"]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(words, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert run.stderr == "gatehook schema: No space left on device\n"


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    words = f"mkdir gone && cd gone && rmdir ../gone && exec {shlex.quote(sys.executable)} -m gatehook check"
    environ = {name: value for name, value in os.environ.items() if name != "GATEHOOK_CONFIG"}
    run = subprocess.run(["sh", "-c", words], check=False, cwd=tmp_path, capture_output=True, text=True, env=environ)
    assert run.returncode == 1
    assert run.stderr.startswith("the working directory is gone (No such file or directory); change to one")


def test_a_command_of_two_plugins_is_an_error_naming_both(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("greet", plugins=("one", "two")) == 1
    assert capsys.readouterr().err.splitlines()[0] == "command 'greet' is added by both 'one' and 'two'; disable one"


def test_a_command_that_the_program_has_itself_is_an_error(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("fail", source=COMMANDS.replace('"greet"', '"serve"')) == 1
    assert capsys.readouterr().err == "command 'serve' of plugin 'greeter' is one of gatehook's own; rename it\n"


def test_schema_names_the_plugin_that_cannot_be_imported(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("schema", source="import no_such_module") == 1
    assert "plugin 'greeter' (gatehook-greeter 1): cannot be imported" in capsys.readouterr().err
