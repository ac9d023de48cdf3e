"""What README.md says of the program is true: its commands, its layers of settings, its Unix socket."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from gatehook.commands.cli import main
from gatehook.config.settings import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SHIPPED = (ROOT / "settings.toml").read_text("utf-8")
Surroundings = Callable[..., dict[str, str]]
ASKED = {"model": "mock", "messages": [{"role": "user", "content": "Hi"}]}

(BLOCK,) = re.findall(r"^```text\n(gatehook serve.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line.split("  ")[0] for line in BLOCK.splitlines() if line]


@pytest.fixture
def beside_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surroundings: Surroundings) -> Path:
    """The working directory is a folder with the shipped settings, and the environment says nothing."""
    (tmp_path / "settings.toml").write_text(SHIPPED, "utf-8")
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(surroundings()):
        monkeypatch.delenv(name)
    return tmp_path


def written(command: str) -> Iterator[list[str]]:
    """The ways to write a command of the block: without options, and with each."""
    _, name, *_ = command.split()
    needed = ["vendor", "acme"] if command.endswith(" KIND NAME") else []
    yield [name, *needed]
    for option in re.findall(r"\[(.*?)\]", command):
        yield [name, *option.replace("PATH", "settings.toml").replace("NAME", "health").split()]


@pytest.mark.parametrize(
    "words",
    [words for line in COMMANDS for words in written(line) if words[0] not in ("serve", "reload", "chat")],
    ids=" ".join,
)
def test_a_command_of_the_block_runs(
    beside_settings: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out
    if "--json" in words or words == ["schema"]:
        json.loads(out)


@pytest.mark.parametrize("name", ["claude-sonnet", "gemini-flash", "mock"])
def test_the_fate_of_every_parameter_is_printed(
    beside_settings: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert "--params NAME" in BLOCK
    assert "`gatehook models --params claude-sonnet`" in README
    assert main(["models", "--params", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\nchat at vendor ")
    if name != "mock":
        assert re.search(r"^seed +(dropped|mapped) +\S", out, re.MULTILINE)


def test_the_block_has_every_command_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    helped = re.findall(r"^    ([\w-]+)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    assert [command.split()[1] for command in COMMANDS] == helped


async def test_the_unix_socket_s_command_serves_and_reloads_until_sigterm(
    beside_settings: Path, surroundings: Surroundings
) -> None:
    (command,) = re.findall(r"`(LISTEN_MODE=[^`]*)`", README)
    *variables, program, word = command.split()
    assert (program, word) == ("gatehook", "serve")
    environ = dict(variable.split("=", 1) for variable in variables)
    with tempfile.TemporaryDirectory() as folder:  # tmp_path may be too long for a socket's name
        environ["XDG_RUNTIME_DIR"] = folder
        environ["UDS_PATH"] = path = environ["UDS_PATH"].replace("/run/", f"{folder}/")
        assert path.startswith(folder)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gatehook",
            word,
            env=surroundings(**environ),
            cwd=beside_settings,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            while b"listens on" not in (line := await process.stderr.readline()):
                assert line, "it ended before it served"
            assert f"unix:{path} ".encode() in line
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as http,
                http.post("http://gatehook/v1/chat/completions", json=ASKED) as answer,
            ):
                assert (await answer.json())["choices"][0]["message"][
                    "content"
                ] == "Hello from Gatehook's mock model. You said: Hi"
            reload = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gatehook", "reload",
                env=surroundings(**environ), cwd=beside_settings, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            said, _ = await reload.communicate()
            assert said.startswith(b"reloaded: ")
        finally:
            process.send_signal(signal.SIGTERM)
            await process.communicate()
        assert process.returncode == 0


def test_the_layers_are_those_that_are_told_in_that_order(beside_settings: Path) -> None:
    (told,) = re.findall(r"later wins: (.*?)\. A fault", README.replace("\n", " "))
    *files, variable = re.findall(r"`(.*?)`", told)
    name, _, value = variable.partition("=")
    seen = []
    for port, file in enumerate(files, 9001):
        mine = beside_settings / file
        text = (
            SHIPPED.replace("port = 8080", f"port = {port}") if file == "settings.toml" else f"[server]\nport = {port}"
        )
        mine.write_text(text, "utf-8")
        seen.append(load(beside_settings / "settings.toml", environ={}).server.port)
    seen.append(load(beside_settings / "settings.toml", environ={name: value}).server.port)
    assert seen == [9001, 9002, 9003, int(value)]
