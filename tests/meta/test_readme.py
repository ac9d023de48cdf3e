"""README.md is true: its examples run as they are written, in front of the settings that are shipped.

Only the address differs, since the port that the examples name may be taken. That the blocks are valid, that the
commands exist and that links lead somewhere is in test_docs.py.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from gatehook.commands.cli import main
from gatehook.config.settings import load
from gatehook.testing import Reply, Served, StubUpstream

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SHIPPED = (ROOT / "settings.toml").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"
CHAT = "/v1/chat/completions"
HELLO = {"model": "mock", "messages": [{"role": "user", "content": "Hello!"}]}
Output = Callable[..., Awaitable[str]]
ANSWER = "Hello from Gatehook's mock model. You said: Hello!"


def blocks(kind: str) -> list[str]:
    """The code blocks of one kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(kind: str, word: str) -> str:
    """The one block of this kind with this word in it."""
    (found,) = [text for text in blocks(kind) if word in text]
    return found


def with_block(text: str) -> str:
    """The shipped settings and a block at the end, whose tables take the place of those that are there already."""
    heads = re.findall(r"^\[[\w.]+\]", text, re.MULTILINE)
    tables = re.split(r"^(?=\[)", SHIPPED, flags=re.MULTILINE)
    return "".join(table for table in tables if not table.startswith(tuple(heads))) + "\n" + text


def texts(body: str) -> str:
    """The text that the events of a stream come to."""
    events = [json.loads(line) for line in re.findall(r"^data: (\{.*)$", body, re.MULTILINE)]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event.get("choices"))


@pytest.fixture
def output(surroundings: Callable[[], dict[str, str]]) -> Output:
    """What a program prints; it must end well and complain of nothing."""

    async def of(*command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=surroundings()
        )
        out, err = await process.communicate()
        assert (process.returncode, err.decode()) == (0, "")
        return out.decode()

    return of


OpenShipped = Callable[..., AbstractAsyncContextManager[Served]]
Routes = Callable[[str, Path], set[tuple[str, str]]]


# --- two commands --------------------------------------------------------------------------------------------------


def test_every_address_in_it_is_where_the_shipped_settings_serve() -> None:
    server = tomllib.loads(SHIPPED)["server"]
    assert f"http://{server['host']}:{server['port']}" == ADDRESS
    others = {"http://127.0.0.1:8000", "http://127.0.0.1:8188"}  # servers of the reader's own
    assert set(re.findall(r"http://[\w.]+:\d+", README)) == {ADDRESS} | others


def test_every_make_target_in_it_is_in_the_makefile() -> None:
    told = {one or other for one, other in re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", README, re.MULTILINE)}
    targets = re.findall(r"^([a-z][a-z -]*):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert told == {"run", "run-local", "test", "bench"}
    assert told <= {name for line in targets for name in line.split()}


def test_every_extra_in_it_can_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = set(re.findall(r"pip install 'gatehook\[(\w+)\]'", README)) - {"NAME"}
    (listed,) = re.findall(r"pip install 'gatehook\[NAME\]'` with (.*?)\.", README.replace("\n", " "))
    assert named | {"all"} == set(re.findall(r"`(\w+)`", listed)) == set(extras) - {"dev", "testing"}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("run", [".venv", "pip install", "gatehook serve"]),
        ("run-local", [".venv", "pip install", "VENDOR_GGUF__ENABLED=true", "gatehook serve"]),
        ("test", ["ruff check", "ruff format --check", "bin/mypy", "bin/pytest"]),
        ("bench", ["tests/bench/run.py"]),
    ],
)
async def test_make_does_what_is_said_in_that_order(
    tmp_path: Path, target: str, steps: list[str], output: Output
) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    would = await output("make", "-C", str(tmp_path), "-n", target)
    places = [would.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)


async def test_the_curl_command_s_request_is_answered(shipped: OpenShipped, http: aiohttp.ClientSession) -> None:
    words = iter(shlex.split(block("sh", "curl").replace("\\\n", "")))
    assert (next(words), next(words)) == ("curl", ADDRESS + CHAT)
    headers: dict[str, str] = {}
    body = ""
    for option in words:
        if option == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        else:
            assert option == "-d"  # which makes it a POST
            body = next(words)
    async with shipped() as served, http.post(served.url + CHAT, data=body, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["X-Gatehook-Deployment"] == "mock#1"
        assert (await answer.json())["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
async def test_the_curl_command_runs(shipped: OpenShipped, output: Output) -> None:
    async with shipped() as served:
        command = block("sh", "curl").replace(ADDRESS, served.url)
        # -q, or ~/.curlrc might say something else; -sS for no progress meter on stderr.
        printed = await output("sh", "-c", command.replace("curl ", "curl -q -sS ", 1))
    assert json.loads(printed)["choices"][0]["message"]["content"] == ANSWER


# --- real vendors --------------------------------------------------------------------------------------------------

KEYS = {name: set(models.split(", ")) for name, models in re.findall(r"^export (\w+)=… +# (.*)$", README, re.MULTILINE)}


@pytest.mark.parametrize("given", [(), *((name,) for name in KEYS), tuple(KEYS)], ids="+".join)
async def test_a_key_s_line_switches_on_the_models_beside_it(
    shipped: OpenShipped, http: aiohttp.ClientSession, given: tuple[str, ...]
) -> None:
    assert set(KEYS) == {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"}
    environ = dict.fromkeys(given, "a-made-up-key-of-a-vendor")
    async with shipped(**environ) as served, http.get(f"{served.url}/v1/models") as answer:
        listed = {model["id"] for model in (await answer.json())["data"]}
    assert listed == {"mock"}.union(*(KEYS[name] for name in given))


def test_a_key_may_stand_in_settings_local_or_in_a_file(tmp_path: Path) -> None:
    entry = '[[models]]\nname = "m"\nvendor = "openai"\napi_key = "{}"\n'
    secret = tmp_path / "openai"
    secret.write_text("a-key-in-a-file\n", "utf-8")
    (tmp_path / "settings.toml").write_text(SHIPPED, "utf-8")
    (tmp_path / "settings.local.toml").write_text(
        entry.format("a-key-in-the-open") + entry.format(f"file:{secret}"), "utf-8"
    )
    targets = [one for one in load(tmp_path / "settings.toml", environ={}).targets if one.name == "m"]
    assert [one.api_key.get_secret_value() for one in targets if one.api_key] == [
        "a-key-in-the-open",
        "a-key-in-a-file",
    ]
    assert "settings.local.toml" in (ROOT / ".gitignore").read_text("utf-8").split()


WORKFLOW = json.dumps({
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 1, "steps": 20, "cfg": 7.0, "scheduler": "normal", "positive": ["6", 0], "negative": ["7", 0],
        "latent_image": ["5", 0],
    }},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "ComfyUI"}},
})  # fmt: skip
"""What the reader has saved as sdxl.json."""


@pytest.mark.parametrize("beside", [True, False], ids=["in settings.local.toml", "in settings.toml"])
@pytest.mark.parametrize("text", blocks("toml"), ids=lambda text: text.splitlines()[0] + text.splitlines()[1])
def test_a_settings_block_works_with_the_shipped_settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    beside: bool,
    surroundings: Callable[..., dict[str, str]],
) -> None:
    own = tomllib.loads(text)
    file = tmp_path / "settings.toml"
    file.write_text(SHIPPED if beside else with_block(text), "utf-8")
    if beside:
        (tmp_path / "settings.local.toml").write_text(text, "utf-8")
    for name in set(os.environ) - set(surroundings()):
        monkeypatch.delenv(name)
    for name in re.findall(r"env:(\w+)", text):
        monkeypatch.setenv(name, "a-made-up-key-of-a-client")
    (tmp_path / "sdxl.json").write_text(WORKFLOW, "utf-8")
    assert main(["check", "--config", str(file)]) == 0
    capsys.readouterr()
    assert main(["models", "--json", "--config", str(file)]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert all(models[model["name"]]["available"] for model in own.get("models", []))
    assert main(["plugins", "--json", "--config", str(file)]) == 0
    on = {plugin["name"] for plugin in json.loads(capsys.readouterr().out) if plugin["enabled"]}
    assert set(own.get("plugins", {})) <= on


async def test_another_server_s_model_is_called_as_its_comments_say(
    shipped: OpenShipped, http: aiohttp.ClientSession
) -> None:
    text = block("toml", "local-llama")
    said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
    async with StubUpstream(Reply.of_json(said)) as stub:
        changed = text.replace("http://127.0.0.1:8000", stub.url)
        assert changed != text
        async with (
            shipped(with_block(changed)) as served,
            http.post(served.url + CHAT, json=HELLO | {"model": "local-llama"}) as answer,
        ):
            assert (await answer.json())["choices"][0]["message"]["content"] == "Hi"
    (request,) = stub.requests
    assert (request.path, request.json["model"]) == (CHAT, "llama-3.1-8b-instruct")
    assert "authorization" not in request.headers


# --- from a program ------------------------------------------------------------------------------------------------


async def test_the_programs_print_the_same_answer_plain_and_streamed(shipped: OpenShipped, output: Output) -> None:
    programs = [program for program in blocks("python") if "chat.completions" in program]
    assert ["stream=True" in program for program in programs] == [False, True]
    async with shipped() as served:
        printed = await asyncio.gather(
            *(output(sys.executable, "-c", program.replace(ADDRESS, served.url)) for program in programs)
        )
    assert printed == [ANSWER + "\n", ANSWER]


async def test_the_program_for_messages_prints_it_too(shipped: OpenShipped, output: Output) -> None:
    async with shipped() as served:
        program = block("python", "anthropic").replace(ADDRESS, served.url)
        assert await output(sys.executable, "-c", program) == ANSWER + "\n"


async def test_the_program_in_the_newer_dialect_prints_the_same(shipped: OpenShipped, output: Output) -> None:
    async with shipped() as served:
        program = block("python", "responses.create").replace(ADDRESS, served.url)
        assert await output(sys.executable, "-c", program) == ANSWER + "\n"


# --- keys, limits and money ----------------------------------------------------------------------------------------


async def test_keys_users_and_usage_are_made_and_shown_as_it_says(
    tmp_path: Path, surroundings: Callable[..., dict[str, str]]
) -> None:
    (tmp_path / "settings.toml").write_text(SHIPPED, "utf-8")
    (tmp_path / "settings.local.toml").write_text(block("toml", "[plugins.quota]"), "utf-8")
    lines = [shlex.split(line, comments=True) for line in block("sh", "gatehook keys create").splitlines()]
    assert [words[:2] for words in lines] == [
        ["gatehook", "keys"], ["gatehook", "keys"], ["gatehook", "users"], ["gatehook", "usage"]
    ]  # fmt: skip
    printed = []
    for words in lines:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *words, cwd=tmp_path, env=surroundings(), stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        printed.append(out.decode())
    assert all(re.fullmatch(r"gh-[\w-]{43}\n", key) for key in printed[:2])
    assert "60 requests/min" in printed[2]
    assert "$20/month" in printed[2]
    assert printed[3] == "nothing was used\n"


def test_the_paths_for_admins_are_all_that_there_are(tmp_path: Path, routes: Routes) -> None:
    (told,) = re.findall(r"for admin keys only: (.*?)\. Models", README.replace("\n  ", " "))
    served = {path for _, path in routes(with_block(block("toml", "[plugins.admin_api]")), tmp_path)}
    beneath = re.compile(r"/\{.*|/requests$|/corrections$")
    assert set(re.findall(r"`(.*?)`", told)) == {beneath.sub("", path) for path in served if path.startswith("/admin/")}


# --- pictures, jobs, tools -----------------------------------------------------------------------------------------


async def test_the_program_for_pictures_prints_where_one_is(
    shipped: OpenShipped, http: aiohttp.ClientSession, output: Output, free_port: Callable[[], int]
) -> None:
    port = free_port()  # the URL of a picture names the port of the settings: it cannot be drawn later
    text = with_block(block("toml", "[plugins.images_api]"))
    async with shipped(text, GATEHOOK_SERVER__PORT=str(port)) as served:
        printed = await output(sys.executable, "-c", block("python", "images").replace(ADDRESS, served.url))
        async with http.get(printed.strip()) as answer:
            assert (answer.status, answer.content_type) == (200, "image/png")
            assert (await answer.read()).startswith(b"\x89PNG")


async def test_a_job_lives_as_its_block_says(
    shipped: OpenShipped, http: aiohttp.ClientSession, tmp_path: Path, routes: Routes
) -> None:
    text = with_block(block("toml", "[plugins.jobs]"))
    told = re.findall(r"^([A-Z]+) +(/v1/jobs[^\s?]*)", block("text", "/v1/jobs"), re.MULTILINE)
    assert {route for route in routes(text, tmp_path) if route[1].startswith("/v1/jobs")} == set(told)
    async with shipped(text) as served:
        async with http.post(served.url + CHAT, json=HELLO | {"async": True}) as answer:
            submitted = await answer.json()
            assert (answer.status, submitted["status"], set(submitted)) == (
                202, "async_started", {"status", "job_id", "model"},
            )  # fmt: skip
        jobs = f"{served.url}/v1/jobs"
        one = f"{jobs}/{submitted['job_id']}"
        async with http.get(f"{one}/events") as events:
            assert "succeeded" in await events.text()
        async with http.get(one) as answer:
            job = await answer.json()
            assert (job["status"], job["progress"]) == ("succeeded", 1)
            assert job["result"]["choices"][0]["message"]["content"] == ANSWER
        async with http.get(jobs, params={"status": "succeeded", "limit": "20"}) as answer:
            assert [listed["job_id"] for listed in (await answer.json())["data"]] == [submitted["job_id"]]
        statuses = []
        for url in (one, f"{one}?purge=true", one):
            async with http.delete(url) as answer:
                statuses.append(answer.status)
        assert statuses == [409, 200, 404]


def test_the_paths_of_tool_policies_are_served(tmp_path: Path, routes: Routes) -> None:
    text = with_block(block("toml", "[plugins.tool_policy]"))
    served = {path for _, path in routes(text, tmp_path)}
    told = set(re.findall(r"(/v1/tools/[\w/]+|/admin/tools/\w+)`", README))
    assert told == {path for path in served if "/tools/" in path}


# --- what a vendor cannot do, and who may ask ------------------------------------------------------------------------


CLAUDE_SAYS = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


CLAUDE_STREAMS = b"".join(
    f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    for event in (
        {"type": "message_start", "message": CLAUDE_SAYS | {"content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    )
)


async def test_what_a_vendor_has_no_place_for_is_named_or_refused(
    shipped: OpenShipped, http: aiohttp.ClientSession
) -> None:
    of_requests = {"X-Gatehook-Priority", "X-Gatehook-Webhook"}  # see "Jobs"
    of_answers = {"X-Gatehook-Dropped-Params", "X-Gatehook-Deployment"}
    assert set(re.findall(r"X-Gatehook-[\w-]+", README)) == of_requests | of_answers
    strict = '[[models]]\nname = "strict"\nvendor = "anthropic"\nstrict = true\napi_key = "env:ANTHROPIC_API_KEY"\n'
    async with StubUpstream(Reply.of_json(CLAUDE_SAYS), Reply.of_events(CLAUDE_STREAMS)) as stub:
        environ = {"ANTHROPIC_API_KEY": "a-made-up-key", "GATEHOOK_PLUGINS__VENDOR_ANTHROPIC__BASE_URL": stub.url}
        async with shipped(with_block(strict), **environ) as served:
            url = served.url + CHAT
            async with http.post(url, json=HELLO | {"model": "claude-sonnet", "seed": 7, "new_fangled": 1}) as dropped:
                assert dropped.status == 200
                assert set(dropped.headers["X-Gatehook-Dropped-Params"].split(", ")) == {"seed", "new_fangled"}
                assert dropped.headers["X-Gatehook-Deployment"] == "claude-sonnet#1"
            async with http.post(url, json=HELLO | {"model": "claude-sonnet", "seed": 7, "stream": True}) as dropped:
                assert dropped.headers["X-Gatehook-Dropped-Params"] == "seed"
                assert dropped.headers["X-Gatehook-Deployment"] == "claude-sonnet#1"
                assert texts(await dropped.text()) == "Hi"
            async with http.post(url, json=HELLO | {"model": "claude-sonnet", "n": 2}) as refused:
                assert (refused.status, (await refused.json())["error"]["param"]) == (400, "n")
            async with http.post(url, json=HELLO | {"model": "strict", "seed": 7}) as refused:
                assert (refused.status, (await refused.json())["error"]["param"]) == (400, "seed")
    assert len(stub.requests) == 2


async def test_the_keys_block_asks_everybody_for_a_key(shipped: OpenShipped, http: aiohttp.ClientSession) -> None:
    key = "a-made-up-key-of-a-client"
    text = with_block(block("toml", "GATEWAY_KEY")).replace('host = "127.0.0.1"', 'host = "0.0.0.0"', 1)
    async with shipped(text, GATEWAY_KEY=key) as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1") + CHAT
        statuses = []
        for headers in ({}, {"Authorization": "Bearer another-key-0123"}, {"Authorization": f"Bearer {key}"}):
            async with http.post(url, json=HELLO, headers=headers) as answer:
                statuses.append(answer.status)
    assert statuses == [401, 401, 200]


# --- rehearsing ----------------------------------------------------------------------------------------------------


async def cut_short(answer: aiohttp.ClientResponse) -> tuple[str, Exception | None]:
    """What arrived of an answer, and how it broke."""
    body = b""
    try:
        async for piece in answer.content.iter_any():
            body += piece
    except aiohttp.ClientError as error:
        return body.decode(), error
    return body.decode(), None


async def test_the_model_that_dies_halfway_ends_in_an_error_and_a_cut_and_never_in_done(
    shipped: OpenShipped, http: aiohttp.ClientSession
) -> None:
    async with (
        shipped(with_block(block("toml", "dies-halfway"))) as served,
        http.post(served.url + CHAT, json=HELLO | {"model": "dies-halfway", "stream": True}) as answer,
    ):
        assert answer.status == 200
        text, failed = await cut_short(answer)
    assert isinstance(failed, aiohttp.ClientPayloadError)
    assert texts(text).strip() == "This sentence will"
    assert "error" in json.loads(re.findall(r"^data: (.*)$", text, re.MULTILINE)[-1])
    assert "[DONE]" not in text
    assert 'finish_reason":"stop' not in text


async def test_the_model_that_dies_halfway_is_an_error_when_asked_plainly(
    shipped: OpenShipped, http: aiohttp.ClientSession
) -> None:
    text = with_block(block("toml", "dies-halfway"))
    async with (
        shipped(text, GATEHOOK_FAILOVER__RETRIES="0") as served,
        http.post(served.url + CHAT, json=HELLO | {"model": "dies-halfway"}) as answer,
    ):
        assert answer.status == 502
        assert "error" in await answer.json()
