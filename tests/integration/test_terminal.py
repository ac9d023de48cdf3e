"""`gatehook chat`: real processes, a real terminal, a gateway that runs and one that does not."""

import asyncio
import os
import pty
import sys
from pathlib import Path

import pytest

from gatehook.testing import StubUpstream, serving

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "echo"
vendor = "mock"
options = { mode = "echo" }
[[models]]
name = "cut"
vendor = "mock"
options = { text = "one two three", fault = { kind = "cut", after = 2 } }
"""
COMMAND = [sys.executable, "-W", "error", "-m", "gatehook", "chat"]


async def said(folder: Path, *words: str, text: str, **environ: str) -> tuple[int, str, str]:
    """What the program prints when this is piped in: its exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *words, cwd=folder, stdin=-1, stdout=-1, stderr=-1, env={"PATH": os.environ["PATH"], **environ}
    )
    out, err = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "settings.toml").write_text("[server]\nport = 1\n" + SETTINGS)
    return tmp_path


async def test_what_is_piped_in_is_answered_by_a_gateway_of_its_own(folder: Path) -> None:
    status, out, err = await said(folder, "echo", text="Hello,\nyou!")
    assert (status, out) == (0, "Hello,\nyou!\n")
    assert err == "No gateway is running: this one serves you alone.\n"


async def test_a_gateway_that_runs_is_asked_with_the_key_that_is_given(tmp_path: Path) -> None:
    key = "sk-0123456789abcdef"
    async with serving(SETTINGS + f'[plugins.auth_keys]\nkeys = ["{key}"]\n') as served:
        port = served.url.rpartition(":")[2]
        (tmp_path / "settings.toml").write_text(f"[server]\nport = {port}\n")
        assert await said(tmp_path, "echo", "--key", key, text="Hi") == (0, "Hi\n", "")
        for name in ("KEY", "GATEHOOK_KEY"):  # which would otherwise be a misspelt setting
            assert await said(tmp_path, "echo", "--key", f"env:{name}", text="Hi", **{name: key}) == (0, "Hi\n", "")
        status, out, err = await said(tmp_path, "echo", text="Hi")
        assert (status, out) == (1, "")
        assert "no API key given" in err
        assert "gatehook chat MODEL --key env:NAME" in err
        assert "KEY is not set" in (await said(tmp_path, "echo", "--key", "env:KEY", text="Hi"))[2]


async def test_a_gateway_of_its_own_is_no_stranger_to_the_key_s_variable_either(folder: Path) -> None:
    status, out, _ = await said(folder, "echo", "--key", "env:GATEHOOK_KEY", text="Hi", GATEHOOK_KEY="any")
    assert (status, out) == (0, "Hi\n")
    assert "did you mean" in (await said(folder, "echo", "--key", "any", text="Hi", GATEHOOK_KEY="any"))[2]


@pytest.mark.parametrize(
    "variables", [{"LISTEN_MODE": "UDS", "UDS_PATH": "g.sock"}, {"GATEHOOK_SERVER__UDS": "g.sock"}]
)
async def test_a_gateway_of_its_own_does_not_listen_where_the_other_would(
    folder: Path, variables: dict[str, str]
) -> None:
    status, out, err = await said(folder, "echo", text="Hi", **variables)
    assert (status, out) == (0, "Hi\n"), err


async def test_a_gateway_on_a_unix_socket_is_found_too(tmp_path: Path) -> None:
    async with serving(f'[server]\nuds = "{tmp_path / "g.sock"}"\n' + SETTINGS):
        (tmp_path / "settings.toml").write_text(f'[server]\nuds = "{tmp_path / "g.sock"}"\n')
        assert await said(tmp_path, "echo", text="Hi") == (0, "Hi\n", "")


async def test_a_gateway_on_a_port_that_the_system_chose_is_found_too(folder: Path) -> None:
    (folder / "settings.toml").write_text("[server]\nport = 0\n" + SETTINGS)
    serve = [*COMMAND[:-1], "serve"]
    process = await asyncio.create_subprocess_exec(
        *serve, cwd=folder, stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"listens on" not in (line := await process.stderr.readline()):
                assert line, "it ended"
        assert await said(folder, "echo", text="Hi") == (0, "Hi\n", "")
    finally:
        process.terminate()
        await process.wait()
    assert await said(folder, "echo", text="Hi") == (0, "Hi\n", "No gateway is running: this one serves you alone.\n")


async def test_errors_are_told_in_a_line_and_by_the_exit_status(folder: Path) -> None:
    status, out, err = await said(folder, "none", text="Hi")
    assert (status, out) == (1, "")
    assert "the model 'none' does not exist" in err
    status, out, err = await said(folder, "cut", text="Hi")
    assert status == 1
    assert out.startswith("one")
    assert "Traceback" not in err
    (folder / "settings.toml").write_text("[nonsense]\n")
    status, out, err = await said(folder, "echo", text="Hi")
    assert (status, out) == (1, "")
    assert "nonsense" in err


async def test_a_port_that_speaks_something_else_is_no_gateway(tmp_path: Path) -> None:
    async with StubUpstream() as stub:
        (tmp_path / "settings.toml").write_text(f"[server]\nport = {stub.url.rpartition(':')[2]}\n" + SETTINGS)
        await stub.__aexit__(None, None, None)
        assert (await said(tmp_path, "echo", text="Hi"))[:2] == (0, "Hi\n")


async def test_in_a_terminal_lines_are_turns_of_one_conversation(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "echo", cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env={"PATH": os.environ["PATH"]}
    )
    os.close(theirs)

    async def until(text: str) -> str:
        seen = ""
        async with asyncio.timeout(20):
            while text not in seen:
                seen += (await asyncio.to_thread(os.read, ours, 4096)).decode()
        return seen

    try:
        await until("> ")
        for word in ("first", "second"):
            os.write(ours, f"{word}\n".encode())
            assert word in await until("> ")
        os.write(ours, b"\n")
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
