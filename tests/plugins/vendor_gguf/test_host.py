"""The host's process, begun and ended; its engines, whatever they do; and what is told when the ground is missing."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gatehook import GatewayError, StartupError, Unavailable
from gatehook.testing import built, serving
from gatehook_plugins.vendor_gguf import link as link_module
from gatehook_plugins.vendor_gguf import vendor
from gatehook_plugins.vendor_gguf.engine_process import EngineProcess
from gatehook_plugins.vendor_gguf.failures import EngineFailed
from gatehook_plugins.vendor_gguf.link import Link
from gatehook_plugins.vendor_gguf.measure import measured
from gatehook_plugins.vendor_gguf.messages import Rules, Spec
from gatehook_plugins.vendor_gguf.options import EngineOptions

Write = Callable[..., Path]
Make = Callable[..., Spec]

HOST = (sys.executable, "-m", "gatehook_plugins.vendor_gguf.host")
NEEDS_LIBRARY = pytest.mark.skipif(not vendor.is_installed(), reason=vendor.INSTALL)


@pytest.fixture
async def opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: tuple[str, ...]
) -> AsyncIterator[Callable[..., contextlib.AbstractAsyncContextManager[Link]]]:
    monkeypatch.setattr(link_module, "_ENGINE", stand_in)
    folder = tmp_path / "run"
    folder.mkdir()

    @contextlib.asynccontextmanager
    async def lines(rules: Rules | None = None) -> AsyncIterator[Link]:
        line = Link()
        async with line.lifespan(folder, rules or Rules(stamp=1.0)):
            yield line

    yield lines
    assert sorted(one.name for one in folder.iterdir() if one.suffix == ".sock") == []


async def test_lines_opened_at_once_find_one_host_that_lives_as_long_as_any_of_them(
    opened: Callable[..., contextlib.AbstractAsyncContextManager[Link]], gguf: Write, spec_of: Make
) -> None:
    spec = spec_of("a", gguf("a.gguf"))
    async with contextlib.AsyncExitStack() as stack:
        first, *others = await asyncio.gather(*(stack.enter_async_context(opened()) for _ in range(3)))
        leases = [await one.acquire(spec) for one in (first, *others)]
        assert len({lease.socket for lease in leases}) == 1
        async with opened() as passing:
            assert [one.active for one in (await passing.report()).states] == [3]
        for lease in leases:
            lease.release()
            lease.release()  # twice does no harm
        while (state := (await first.report()).states[0]).active:  # each has a line of its own
            pass
        assert (state.name, state.status) == ("a", "loaded")


async def test_who_leaves_takes_its_wish_and_its_leases_along(
    opened: Callable[..., contextlib.AbstractAsyncContextManager[Link]], gguf: Write, spec_of: Make
) -> None:
    rules = Rules(stamp=1.0, max_concurrent_models=1)
    a, b, c = (spec_of(name, gguf(f"{name}.gguf")) for name in "abc")
    async with opened(rules) as stays:
        async with opened(rules) as leaves:
            await leaves.acquire(a)
            wish = asyncio.create_task(leaves.acquire(b))
            while len((await stays.report()).states) < 2:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.01)
            wish.cancel()
        assert (await stays.acquire(c)).socket
        assert [one.name for one in (await stays.report()).states] == ["c"]


async def test_a_refusal_says_what_and_when_to_come_again(
    opened: Callable[..., contextlib.AbstractAsyncContextManager[Link]], spec_of: Make
) -> None:
    async with opened(Rules(stamp=1.0, auto_load=False)) as line:
        with pytest.raises(Unavailable, match="not loaded, and auto_load is off") as refused:
            await line.acquire(spec_of("a"))
        assert (refused.value.status, refused.value.code) == (503, "model_not_loaded")


def test_a_host_that_cannot_listen_says_where_and_why(tmp_path: Path) -> None:
    done = subprocess.run([*HOST, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, f"No such file or directory: {tmp_path}/none/host.sock\n")


async def test_a_folder_whose_path_is_too_long_for_a_socket_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    folder.mkdir(parents=True)
    with pytest.raises(StartupError, match=r"too long: sockets in it would have \d+ bytes, and 107 are possible"):
        async with Link().lifespan(folder, Rules()):
            raise AssertionError


async def test_a_host_that_cannot_be_begun_for_a_pinned_model_is_a_fault_at_the_start(
    tmp_path: Path, gguf: Write, spec_of: Make
) -> None:
    pinned = Rules(pinned=(spec_of("a", gguf("a.gguf")),))
    with pytest.raises(StartupError, match=r"cannot be started: No such file or directory: .*host\.sock"):
        async with Link().lifespan(tmp_path / "none", pinned):
            raise AssertionError


async def test_without_a_pinned_model_no_host_is_begun_before_one_is_needed(
    opened: Callable[..., contextlib.AbstractAsyncContextManager[Link]], tmp_path: Path, gguf: Write, spec_of: Make
) -> None:
    socket = tmp_path / "run" / "host.sock"
    async with opened() as line:
        assert (await line.report()).states == ()
        assert not socket.exists()
        await line.acquire(spec_of("a", gguf("a.gguf")))
        assert socket.exists()
        async with opened() as later:
            assert [one.name for one in (await later.report()).states] == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_for_the_socket_is_told_so(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        (tmp_path / "host.lock").touch()
        done = subprocess.run([*HOST, str(tmp_path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, f"No space left on device: {tmp_path}/host.sock\n")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- an engine's process


def engine(path: Path, tmp_path: Path, *program: str) -> EngineProcess:
    return EngineProcess(EngineOptions(str(path), str(tmp_path / "e.sock"), "m"), program)


async def begin(process: EngineProcess, timeout: float = 10) -> list[float]:
    heard: list[float] = []
    await process.begin(heard.append, timeout)
    return heard


async def test_an_engine_tells_its_progress_and_its_memory_and_ends_when_it_is_stopped(
    gguf: Write, tmp_path: Path, stand_in: tuple[str, ...]
) -> None:
    process = engine(gguf("m.gguf"), tmp_path, *stand_in)
    assert process.memory is None
    assert await begin(process) == [0.5]
    assert (process.memory or 0) > 1 << 20
    process.stop()
    process.stop()
    await process.wait()


async def test_an_engine_that_is_stopped_while_it_loads_ends(
    gguf: Write, tmp_path: Path, stand_in: tuple[str, ...]
) -> None:
    process = engine(gguf("m.gguf", wish="hang"), tmp_path, *stand_in)
    loading = asyncio.create_task(begin(process))
    await asyncio.sleep(0)
    process.stop()
    with pytest.raises(EngineFailed):
        await loading


@pytest.mark.parametrize(
    ("program", "what"),
    [
        (("/no/such/program",), "cannot be started: No such file or directory"),
        ((sys.executable, "-c", "print('not JSON'); print('[]'); print('{}')"), "ended with status 0"),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), "was killed .SIGKILL., as the system does"),
        ((sys.executable, "-c", "import sys; sys.exit('no room')"), "ended with status 1: no room"),
        ((sys.executable, "-c", "print('x' * (3 << 20)); import sys; sys.exit('wide')"), "ended with status 1: wide"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "was not loaded within 0.5 s"),
    ],
    ids=["absent", "silent", "killed", "failing", "wide", "hanging"],
)
async def test_whatever_an_engine_does_instead_of_loading_is_told(
    tmp_path: Path, program: tuple[str, ...], what: str
) -> None:
    with pytest.raises(EngineFailed, match=what):
        await begin(engine(tmp_path / "m", tmp_path, *program), timeout=0.5 if "sleep" in program[-1] else 10)


async def test_an_engine_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook_plugins.vendor_gguf.engine_process._ENDING", 0.1)
    deaf = "import time; print('{\"ready\": {}}', flush=True); time.sleep(60)"
    process = engine(tmp_path / "m", tmp_path, sys.executable, "-c", deaf)
    await begin(process)
    process.stop()
    await process.wait()


async def test_an_engine_that_gives_no_sign_of_life_is_killed_and_that_is_told(
    gguf: Write, tmp_path: Path, stand_in: tuple[str, ...]
) -> None:
    options = EngineOptions(str(gguf("m.gguf")), str(tmp_path / "e.sock"), "m", step_timeout=0.2)
    process = EngineProcess(options, stand_in)
    await begin(process)
    with pytest.raises(EngineFailed, match=r"hung: it gave no sign of life for 0\.2 s \(step_timeout\), and was"):
        await process.wait()


@NEEDS_LIBRARY
async def test_an_engine_lives_as_long_as_it_gives_signs_and_no_longer(trained: Path, tmp_path: Path) -> None:
    options = EngineOptions(str(trained), str(tmp_path / "e.sock"), "m", context=64, threads=1, step_timeout=1.0)
    process = EngineProcess(options)
    await begin(process)
    waiting = asyncio.create_task(process.wait())
    assert not (await asyncio.wait([waiting], timeout=1.5))[0]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(EngineFailed, match="hung"):
        await waiting


@NEEDS_LIBRARY
@pytest.mark.parametrize("layers", [0, -1])
async def test_layers_for_a_gpu_that_the_library_cannot_use_are_told_in_the_log(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, layers: int
) -> None:
    import llama_cpp

    options = EngineOptions(str(trained), str(tmp_path / "e.sock"), "m", context=64, threads=1, gpu_layers=layers)
    process = EngineProcess(options)
    await begin(process)
    process.stop()
    await process.wait()
    in_vain = bool(layers) and not llama_cpp.llama_supports_gpu_offload()
    assert ("m: gpu_layers does nothing here: llama.cpp was built without a GPU" in caplog.text) == in_vain


# --- what is missing


async def test_without_the_library_the_start_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook_plugins.vendor_gguf.plugin.is_installed", lambda: False)
    with pytest.raises(StartupError, match=r"pip install 'gatehook\[gguf\]'; or set enabled = false"):
        async with serving("[plugins.vendor_gguf]"):
            raise AssertionError


async def test_a_pinned_model_that_is_not_there_is_a_fault_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook_plugins.vendor_gguf.plugin.is_installed", lambda: True)
    with pytest.raises(StartupError, match="pinned: there is no local model 'x'"):
        async with serving('[plugins.vendor_gguf]\npinned = ["x"]'):
            raise AssertionError


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ('{ path = "FILE", slots = 0 }', "options: slots must be 1 or more"),
        ('{ path = "FILE", context = "much" }', "options: context: expected int | null, got str"),
        ('{ path = "FILE", size = 1 }', "options: size: no such field; there are: "),
        ('{ path = "FILE", pooling = "max" }', "options: pooling must be 'mean', 'cls' or 'last'"),
        pytest.param(
            f'{{ path = "FILE", chat_template = "{"x" * 300_000}" }}',
            "options: chat_template and reasoning must have 262144 characters together, or fewer",
            id="a template that no message holds",
        ),
        ('{ path = "FILE", reasoning = ["<think>", ""] }', "options: reasoning must be two tags"),
        ('{ path = "FILE", quantization = "Q1" }', "has no quantization 'Q1'"),
        ('{ path = "nowhere.gguf" }', "nowhere.gguf cannot be read: No such file"),
        ("{ }", "no file of the model 'm' in models_dir"),
    ],
)
def test_check_tells_what_is_wrong_with_a_model(
    gguf: Write, monkeypatch: pytest.MonkeyPatch, options: str, fault: str
) -> None:
    monkeypatch.setattr(vendor, "is_installed", lambda: True)
    model = f'[[models]]\nname = "m"\nvendor = "gguf"\noptions = {options.replace("FILE", str(gguf("m.gguf")))}'
    gateway = built(f"[plugins.vendor_gguf]\n{model}")
    (said,) = gateway.vendors["gguf"].check(gateway.catalog.group("m")[0])  # type: ignore[attr-defined]
    assert fault in said


async def test_a_probe_looks_at_the_file_and_loads_nothing(gguf: Write) -> None:
    path = gguf("m.gguf")
    gateway = built(f'[plugins.vendor_gguf]\n[[models]]\nname = "m"\nvendor = "gguf"\noptions = {{ path = "{path}" }}')
    probe = gateway.vendors["gguf"].probe  # type: ignore[attr-defined]
    await probe(gateway.catalog.group("m")[0])
    path.unlink()
    with pytest.raises(GatewayError, match=r"m\.gguf cannot be read"):
        await probe(gateway.catalog.group("m")[0])


def test_the_processes_of_models_hold_nothing_of_the_gateway_in_memory() -> None:
    ours = ("host", "measure", "engine.__main__")
    program = "".join(f"import gatehook_plugins.vendor_gguf.{name}\n" for name in ours)
    program += "import sys; print(sorted({'gatehook', 'pydantic', 'dynaconf'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the library's own word


@NEEDS_LIBRARY
async def test_the_library_s_word_on_memory_is_near_the_estimate_and_below_it(trained: Path) -> None:
    from gatehook_plugins.vendor_gguf.estimate import need
    from gatehook_plugins.vendor_gguf.header import read_header

    header = read_header(trained)
    for context, slots in ((512, 1), (1024, 4)):
        options = EngineOptions(str(trained), "", "m", context=context, slots=slots)
        told = await measured(options)
        assert told is not None
        assert 0.9 * need(header, options) < told <= need(header, options)


@NEEDS_LIBRARY
async def test_of_a_file_that_it_does_not_take_the_library_says_nothing(gguf: Write, tmp_path: Path) -> None:
    assert await measured(EngineOptions(str(gguf("m.gguf")), "", "m")) is None
    assert await measured(EngineOptions(str(tmp_path / "none"), "", "m")) is None


def test_a_memory_that_is_no_size_is_told_as_every_other_is() -> None:
    with pytest.raises(StartupError) as caught:
        built('[plugins.vendor_gguf]\nmemory_limit = "much"\n')
    assert caught.value.faults == [
        (
            "settings.toml: [plugins.vendor_gguf] memory_limit: expected a number of bytes, or a size such as '512KB', "
            "'32MB' or '1GB'"
        )
    ]
