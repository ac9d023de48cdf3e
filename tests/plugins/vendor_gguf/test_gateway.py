"""A whole gateway with local models: real processes and sockets, engines that stand in for the library."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook import LOCAL_MODELS, LocalModel, LocalModels
from gatehook.testing import Served, serving
from gatehook_plugins.vendor_gguf import VendorGGUF, link
from gatehook_plugins.vendor_gguf.library import Library

Write = Callable[..., Path]
Open = Callable[..., contextlib.AbstractAsyncContextManager["Local"]]


class Local:
    """A gateway that is serving, and what tests ask it."""

    def __init__(self, served: Served, http: aiohttp.ClientSession) -> None:
        self.served = served
        self.http = http

    @property
    def models(self) -> LocalModels:
        return self.served.gateway.services[LOCAL_MODELS]

    async def model(self, name: str) -> LocalModel:
        return next(one for one in await self.models.models() if one.name == name)

    async def loaded(self) -> list[str]:
        return [one.name for one in await self.models.models() if one.loaded]

    def post(self, model: str, text: str, **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return self.http.post(f"{self.served.url}/v1/chat/completions", json=body)

    async def ask(self, model: str, text: str = "Hi", **more: Any) -> tuple[int, Any]:
        async with self.post(model, text, **more) as answer:
            return answer.status, await answer.json()

    async def said(self, model: str, text: str = "Hi") -> list[str]:
        """The words of the answer: the model's name, its file, its process, what was asked."""
        status, answer = await self.ask(model, text)
        assert status == 200, answer
        words: list[str] = answer["choices"][0]["message"]["content"].split(" ")
        return words

    async def pid(self, model: str) -> int:
        return int((await self.said(model))[2])

    async def metrics(self, model: str) -> dict[str, float]:
        """What /metrics tells of a local model."""
        async with self.http.get(f"{self.served.url}/metrics") as page:
            found = re.findall(
                rf'^gateway_local_model_(\w+){{model="{model}"}} (\S+)$', await page.text(), re.MULTILINE
            )
        return {name: float(value) for name, value in found}


def of_process(pid: int, what: str) -> str:
    """What the system tells of a process; "" if there is none."""
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    return next(line for line in told.splitlines() if line.startswith(f"{what}:")).split(":")[1].strip()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: tuple[str, ...]) -> Open:
    """Opens a gateway whose models lie in tmp_path."""
    monkeypatch.setattr(link, "_ENGINE", stand_in)
    monkeypatch.setattr("gatehook_plugins.vendor_gguf.plugin.is_installed", lambda: True)  # it is not needed

    @contextlib.asynccontextmanager
    async def opened(more: str = "", models: str = "", failover: str = "retries = 0") -> AsyncIterator[Local]:
        settings = f"""
            [plugins.openai_api]
            [plugins.route_models]
            [failover]
            {failover}
            [plugins.vendor_gguf]
            models_dir = "{tmp_path}"
            {more}
            {models}
        """
        async with serving(settings) as served, aiohttp.ClientSession() as http:
            yield Local(served, http)

    return opened


async def test_a_file_in_the_folder_is_a_model_that_loads_when_it_is_called(local: Open, gguf: Write) -> None:
    path = gguf("nice-Q8_0.gguf", size=2000)
    async with local() as here:
        before = await here.model("nice")
        assert (before.status, before.quantization, before.size) == ("unloaded", "Q8_0", 2000)
        assert (before.architecture, before.context_length, before.memory) == ("llama", 1024, None)
        assert (await here.said("nice"))[:2] == ["nice", str(path)]
        after = await here.model("nice")
        assert after.loaded
        assert after.memory is not None
        assert after.memory > 1 << 20
        limits = await here.models.limits()
        assert limits.max_concurrent_models == 3
        assert 0 < limits.memory_used < limits.memory_limit
        pid = await here.pid("nice")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # the model has ended with the gateway


async def test_a_stream_goes_through_and_its_usage_is_counted_whether_asked_for_or_not(
    local: Open, gguf: Write
) -> None:
    gguf("nice.gguf")
    async with local() as here:
        for options, told in (({}, 0), ({"stream_options": {"include_usage": True}}, 1)):
            async with here.post("nice", "Hi", stream=True, **options) as answer:
                events = [line[6:] for line in (await answer.text()).split("\n\n") if line]
            assert events[-1] == "[DONE]"
            parsed = [json.loads(one) for one in events[:-1]]
            assert {one["model"] for one in parsed} == {"nice"}
            assert sum("usage" in one for one in parsed) == told


async def test_a_new_file_is_a_model_without_a_restart_and_a_removed_one_is_none(local: Open, gguf: Write) -> None:
    gguf("one.gguf")
    async with local() as here:
        path = gguf("two-Q4_0.gguf", {"general.file_type": 2})
        shelf = here.served.gateway.vendors["gguf"]._shelf  # type: ignore[attr-defined]
        shelf._looked -= 2  # some seconds have passed
        assert (await here.said("two"))[0] == "two"
        path.unlink()
        assert [one.name for one in await here.models.models()] == ["one"]
        status, answer = await here.ask("two")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_several_quantizations_are_one_model_and_load_chooses(local: Open, gguf: Write) -> None:
    large = gguf("m-Q8_0.gguf", size=9000)
    small = gguf("deeper/m-Q4_0.gguf", {"general.file_type": 2}, size=5000)
    async with local() as here:
        assert (await here.model("m")).quantizations == ("Q8_0", "Q4_0")
        assert (await here.said("m"))[1] == str(large)
        assert (await here.models.load("m", "q4_0")).quantization == "Q4_0"
        assert (await here.said("m"))[1] == str(small)
        assert (await here.models.load("m")).quantization == "Q4_0"
        with pytest.raises(Exception, match="no quantization 'Q2_K'; there is Q8_0, Q4_0"):
            await here.models.load("m", "Q2_K")
        with pytest.raises(Exception, match="no local model 'x'"):
            await here.models.load("x")


async def test_the_settings_name_a_file_and_how_it_runs(local: Open, gguf: Write) -> None:
    path = gguf("elsewhere/model.gguf")
    models = f"""
        [[models]]
        name = "mine"
        vendor = "gguf"
        aliases = ["its-alias"]
        options = {{ path = "{path}", context = 256, slots = 2 }}
    """
    async with local(models=models) as here:
        assert [one.name for one in await here.models.models()] == ["mine"]
        assert (await here.model("mine")).context_length == 256
        status, answer = await here.ask("its-alias")
        assert (status, answer["model"]) == (200, "its-alias")
        target = here.served.gateway.catalog.group("mine")[0]
        assert (target.context_window, target.capabilities[:1]) == (256, ("text-generation",))


async def test_a_file_outside_the_folder_is_refused_to_whoever_is_not_the_operator(local: Open, gguf: Write) -> None:
    gguf("in.gguf")
    async with local() as here:
        from gatehook import Target

        target = Target("x#1", "x", "gguf", "x", options={"path": "/etc/passwd"})
        here.served.gateway.catalog.feed("database", [target])
        status, answer = await here.ask("x")
        assert (status, answer["error"]["param"]) == (400, "options.path")
        assert "is not in models_dir" in answer["error"]["message"]


async def test_more_models_than_places_take_turns(local: Open, gguf: Write) -> None:
    for name in "abc":
        gguf(f"{name}.gguf")
    async with local("max_concurrent_models = 1") as here:
        for name in "abcab":
            assert (await here.said(name))[0] == name
            assert await here.loaded() == [name]


async def test_a_model_that_answers_is_not_unloaded_under_its_stream(local: Open, gguf: Write) -> None:
    for name in "ab":
        gguf(f"{name}.gguf")
    async with local("max_concurrent_models = 1\nqueue_timeout = 0.3") as here:
        async with here.post("a", "slow", stream=True) as stream:
            await stream.content.readany()
            status, answer = await here.ask("b")
            assert (status, answer["error"]["code"]) == (503, "no_free_slot")
            assert (await here.model("a")).active == 1
            await stream.content.readany()
        assert (await here.said("b"))[0] == "b", "its client has left, and with it the lease"


async def test_an_engine_that_dies_in_a_stream_is_an_honest_error_and_is_begun_again(
    local: Open, gguf: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    gguf("a.gguf")
    gguf("b.gguf")
    # One retry: while the process is being torn down, a connection may still be taken, and cut at once.
    async with local(models="[plugins.metrics]", failover="retries = 1") as here:
        other = await here.pid("b")
        async with here.post("a", "die", stream=True) as stream:
            data = b""
            with contextlib.suppress(aiohttp.ClientError):
                async for piece in stream.content.iter_any():
                    data += piece
        assert b"[DONE]" not in data
        assert b'"code":"engine_crashed"' in data
        assert (await here.said("a"))[0] == "a"
        assert await here.pid("b") == other
        async with here.http.get(f"{here.served.url}/metrics") as page:
            counted = [line for line in (await page.text()).splitlines() if 'code="engine_crashed"' in line]
        assert 'gateway_requests_total{code="engine_crashed",model="a",outcome="partial",vendor="gguf"} 1.0' in counted
    assert "a ended by signal SIGABRT: GGML_ASSERT(logits != nullptr) failed" in capfd.readouterr().err


async def test_kill_9_of_an_engine_between_requests_is_noticed_by_the_metrics_alone(local: Open, gguf: Write) -> None:
    gguf("a.gguf")
    async with local(models="[plugins.metrics]") as here:
        pid = await here.pid("a")
        before = await here.metrics("a")
        assert before.pop("memory_bytes") > 1 << 20
        assert before == {"loaded": 1, "failures_total": 0}
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while await here.loaded():  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.01)
        assert await here.metrics("a") == {"loaded": 0, "failures_total": 1}
        assert await here.pid("a") != pid


async def test_signals_that_are_meant_for_the_gateway_end_no_model(local: Open, gguf: Write) -> None:
    gguf("a.gguf")
    async with local() as here:
        pid = await here.pid("a")
        async with here.post("a", "slow", stream=True) as stream:
            await stream.content.readany()
            for process in (pid, int(of_process(pid, "PPid"))):
                for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    os.kill(process, stop)
            await stream.content.readany()
        assert await here.pid("a") == pid


async def test_a_pinned_model_is_back_after_kill_9_of_the_host_though_nobody_asks(local: Open, gguf: Write) -> None:
    gguf("p.gguf")
    async with local('pinned = ["p"]') as here:
        pid = await here.pid("p")
        assert (await here.model("p")).pinned
        os.kill(int(of_process(pid, "PPid")), signal.SIGKILL)
        async with asyncio.timeout(10):
            while await here.loaded() != ["p"] or of_process(pid, "State")[:1] not in ("", "Z"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_kill_9_of_the_host_ends_its_models_and_another_takes_its_place(local: Open, gguf: Write) -> None:
    gguf("a.gguf")
    async with local() as here:
        pid = await here.pid("a")
        host = int(of_process(pid, "PPid"))
        async with here.post("a", "slow", stream=True) as stream:
            await stream.content.readany()
            os.kill(host, signal.SIGKILL)
            data = b""
            with contextlib.suppress(aiohttp.ClientError):
                async for piece in stream.content.iter_any():
                    data += piece
        assert b"engine_crashed" in data
        assert await here.pid("a") != pid
        assert of_process(pid, "State")[:1] in ("", "Z"), "it has ended, though perhaps nobody has taken note"


@pytest.mark.parametrize(
    ("wish", "what"),
    [("exit", "ended with status 3: tensor data is not within the file bounds"), ("hang", "not loaded within 0.3 s")],
)
async def test_what_cannot_be_loaded_says_why_and_the_others_live(
    local: Open, gguf: Write, wish: str, what: str
) -> None:
    gguf("bad.gguf", wish=wish)
    gguf("good.gguf")
    async with local("load_timeout = 0.3" if wish == "hang" else "") as here:
        status, answer = await here.ask("bad")
        assert (status, answer["error"]["code"]) == (503, "model_load_failed")
        assert what in answer["error"]["message"]
        assert (await here.model("bad")).status == "failed"
        assert what in (await here.model("bad")).error
        if wish != "hang":
            assert (await here.said("good"))[0] == "good"


async def test_whoever_asks_for_health_again_and_again_has_the_folder_read_once_a_second(
    local: Open, gguf: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf("nice.gguf")
    monkeypatch.setattr("gatehook_plugins.vendor_gguf.shelf._SECONDS", 3600.0)
    monkeypatch.setattr("gatehook_plugins.vendor_gguf.service._SECONDS", 3600.0)
    reads, families = [], Library.families

    def counted(library: Library) -> Any:
        reads.append(library)
        return families(library)

    monkeypatch.setattr(Library, "families", counted)
    async with local(models="[plugins.generate_api]\n[plugins.health]") as here:

        async def asked(path: str) -> Any:
            async with here.http.get(here.served.url + path) as answer:
                return await answer.json()

        assert (await asked("/api/v1/health"))["model_loaded"] is False
        before = len(reads)
        await here.said("nice")
        gguf("new.gguf")
        told = await asyncio.gather(*map(asked, ["/api/v1/health", "/health"] * 10))
        assert [one.get("model_loaded", True) for one in told] == [True] * 20, "what is loaded is told at once"
        assert len(reads) == before
        monkeypatch.setattr("gatehook_plugins.vendor_gguf.service._SECONDS", 0.0)
        assert (await here.model("new")).status == "unloaded"


async def test_clients_are_told_the_file_that_cannot_be_loaded_and_only_the_log_its_folder(
    local: Open, gguf: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    path = gguf("our models/bad.gguf", wish="blame")
    async with local() as here:
        status, answer = await here.ask("bad")
        assert (status, answer["error"]["code"]) == (503, "model_load_failed")
        why = "could not be loaded: bad.gguf: no such tensor ('llama.so')"
        assert answer["error"]["message"].endswith(why)
        assert (await here.model("bad")).error == why
    assert f"{path}: no such tensor ('/usr/lib/x/llama.so')" in capfd.readouterr().err


async def test_a_file_that_is_no_gguf_is_not_listed_and_one_that_is_named_is_refused(
    local: Open, gguf: Write, tmp_path: Path
) -> None:
    path = tmp_path / "photo.gguf"
    path.write_bytes(b"\x89PNG nothing")
    models = f'[[models]]\nname = "m"\nvendor = "gguf"\noptions = {{ path = "{path}" }}'
    async with local(models=models) as here:
        assert [(one.name, one.status) for one in await here.models.models()] == [("m", "failed")]
        status, answer = await here.ask("m")
        assert (status, answer["error"]["code"]) == (503, "model_load_failed")
        assert "photo.gguf is no GGUF file" in answer["error"]["message"]


async def test_a_model_that_memory_cannot_hold_is_refused_with_both_numbers(local: Open, gguf: Write) -> None:
    gguf("big.gguf")
    async with local('memory_limit = "1MB"') as here:
        status, answer = await here.ask("big")
        assert (status, answer["error"]["code"]) == (503, "model_too_large")
        assert "MB of memory, and memory_limit is 1.0 MB" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("text", "status", "code", "retry_after"),
    [
        ("refuse 400 context_length_exceeded", 400, "context_length_exceeded", None),
        ("refuse 503 engine_busy", 503, "engine_busy", "7"),
        ("refuse 429 engine_busy", 503, "engine_busy", "7"),
        ("refuse 500 engine_failed", 400, "engine_failed", None),
    ],
)
async def test_what_the_engine_refuses_keeps_its_meaning(
    local: Open, gguf: Write, text: str, status: int, code: str, retry_after: str | None
) -> None:
    gguf("a.gguf")
    async with local() as here, here.post("a", text) as answer:
        told = (await answer.json())["error"]
        assert (answer.status, told["code"], answer.headers.get("Retry-After")) == (status, code, retry_after)


async def test_loading_does_not_count_as_silence(local: Open, gguf: Write, tmp_path: Path) -> None:
    go = tmp_path / "go"
    gguf("late.gguf", wish=f"wait {go}")
    async with local(failover="first_token_timeout = 1") as here:

        async def ask() -> int:
            async with here.post("late", "Hi", stream=True) as answer:
                await answer.read()
                return int(answer.status)

        asking = asyncio.create_task(ask())
        await asyncio.wait([asking], timeout=2)
        assert not asking.done(), "it waits for the model, twice as long as a loaded model may be silent"
        while (await here.model("late")).progress != 0.5:  # noqa: ASYNC110  # its process may have only just begun
            await asyncio.sleep(0.01)
        go.touch()
        assert await asking == 200


async def test_two_hundred_requests_over_five_models_in_two_places(local: Open, gguf: Write) -> None:
    """Random arrivals, streams and plain, some of whose clients leave: none is lost and none is mixed up."""
    dice = random.Random(7)
    names = ["a", "b", "c", "d", "e"]
    paths = {name: str(gguf(f"{name}.gguf")) for name in names}
    ended: Counter[str] = Counter()

    async with local("max_concurrent_models = 2\nswitch_after = 0.05") as here:

        async def request(number: int) -> None:
            await asyncio.sleep(dice.random())
            name, text = dice.choice(names), f"q{number}"
            if number % 10 == 3:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05), here.post(name, "slow", stream=True) as stream:
                        await stream.read()
                ended["left"] += 1
            elif number % 2:
                async with here.post(name, text, stream=True) as stream:
                    data = (await stream.read()).decode()
                assert data.endswith("data: [DONE]\n\n"), data
                assert f"{name} {paths[name]} " in data
                assert f" {text}" in data
                ended["streamed"] += 1
            else:
                said = await here.said(name, text)
                assert (said[0], said[1], said[3]) == (name, paths[name], text)
                ended["plain"] += 1

        await asyncio.gather(*(request(number) for number in range(200)))
        assert ended == {"left": 20, "streamed": 80, "plain": 100}
        models = await here.models.models()
        assert sum(one.loaded for one in models) <= 2
        async with asyncio.timeout(5):
            while any(one.active for one in await here.models.models()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def test_settings_that_are_read_later_hold_also_where_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = VendorGGUF(VendorGGUF.Settings())
    with monkeypatch.context() as back:
        back.setattr("time.time", lambda: 1.0)
        assert VendorGGUF(VendorGGUF.Settings())._stamp > first._stamp
