"""What goes wrong at ComfyUI: told clearly, without its paths, never charged, and nothing runs on for nobody."""

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gatehook import Call, Document, GatewayError
from gatehook.testing import Reply, StubUpstream

House = Any
Comfy = Any


@pytest.fixture
def workflow(house: House) -> Callable[..., Any]:
    """The usual workflow with another node in place of its second."""

    def changed(kind: str, /, **inputs: Any) -> Any:
        return {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}},
            "2": {"class_type": kind, "inputs": {"image": ["1", 0], **inputs}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "made"}},
        }

    return changed


PROMPT = 'prompt = "3.filename_prefix"'


def asked(comfy: Comfy, path: str) -> list[Any]:
    """The bodies of all requests to a path."""
    return [body for method, at, _, body in comfy.asked if at == path and method == "POST"]


async def until(true: Callable[[], bool]) -> None:
    """Let others work until it is so."""
    while not true():  # noqa: ASYNC110  # of another system, which tells nobody
        await asyncio.sleep(0.005)


# --- cancellation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [0, 3])
async def test_a_run_ends_when_its_client_leaves_also_if_interruptions_are_lost(
    house: House, comfy: Comfy, lost: int
) -> None:
    comfy.held, comfy.lost_interrupts = True, lost
    async with house(comfy.url) as home:
        asking = asyncio.create_task(home.ask(steps=50))
        await comfy.reached.wait()
        asking.cancel()
        await until(lambda: comfy.remaining == 0)
        assert comfy.steps == 1
        assert len(asked(comfy, "/interrupt")) > lost
        await until(lambda: comfy.history == {})


async def test_a_stream_that_is_left_ends_its_run(house: House, comfy: Comfy) -> None:
    comfy.held = True
    async with house(comfy.url) as home:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "a cat"}]}
        async with home.http.post(f"{home.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            answer.close()
        await until(lambda: comfy.remaining == 0)
    assert comfy.steps == 1


async def test_a_run_that_waits_is_taken_from_the_queue_and_nobody_else_s_is_touched(
    house: House, comfy: Comfy
) -> None:
    comfy.held = True
    async with house(comfy.url) as home:
        theirs = {"prompt": {"1": {"class_type": "Blocks", "inputs": {}}}, "prompt_id": "theirs", "client_id": "them"}
        async with home.http.post(f"{comfy.url}/prompt", json=theirs):
            await comfy.reached.wait()
        asking = asyncio.create_task(home.ask())
        await until(lambda: len(comfy.pending) == 1)
        asking.cancel()
        await until(lambda: not comfy.pending)
        assert comfy.running is not None, "their run was stopped"
        comfy.go.set()
        await until(lambda: comfy.ran == ["theirs"])
    assert comfy.history["theirs"]["status"]["status_str"] == "success"
    assert all(set(body) == {"prompt_id"} for body in asked(comfy, "/interrupt"))
    assert "theirs" not in json.dumps([asked(comfy, path) for path in ("/queue", "/interrupt", "/history")])


async def test_stopping_the_gateway_stops_its_runs(house: House, comfy: Comfy) -> None:
    comfy.held = True
    async with house(comfy.url, tables="[server]\nport = 0\nshutdown_grace = 0\n") as home:
        asking = asyncio.create_task(home.ask(steps=50))
        await comfy.reached.wait()
    with pytest.raises(aiohttp.ClientError):
        await asking
    assert (comfy.remaining, comfy.steps) == (0, 1)


# --- races and broken lines ----------------------------------------------------------------------------------------


async def test_a_history_that_is_written_late_is_waited_for(house: House, comfy: Comfy) -> None:
    comfy.late_history = True
    async with house(comfy.url) as home:
        assert (await home.ask())[0] == 200


@pytest.mark.parametrize("trouble", ["is_deaf", "is_mute"])
async def test_without_a_word_from_the_socket_the_server_is_asked(house: House, comfy: Comfy, trouble: str) -> None:
    setattr(comfy, trouble, True)
    async with house(comfy.url) as home:
        assert (await home.ask())[0] == 200
        assert (await home.chat(stream=False))[0] == 200


async def test_one_odd_answer_is_not_the_end_of_a_run(house: House, comfy: Comfy) -> None:
    odd = [web.json_response({}), web.json_response({"queue_running": [[]], "queue_pending": []})]

    async def proxy(request: web.Request) -> web.StreamResponse | None:
        return odd.pop() if request.path == "/queue" and odd else None

    comfy.is_deaf, comfy.front, comfy.held = True, proxy, True
    async with house(comfy.url) as home:
        asking = asyncio.create_task(home.ask())
        await comfy.reached.wait()
        while odd:  # noqa: ASYNC110  # it is asked again and again
            await asyncio.sleep(0.01)
        comfy.go.set()
        assert (await asking)[0] == 200


async def test_a_socket_that_breaks_is_replaced_under_another_id_and_the_run_goes_on(
    house: House, comfy: Comfy
) -> None:
    comfy.held = True
    async with house(comfy.url) as home:
        asking = asyncio.create_task(home.ask())
        await comfy.reached.wait()
        (first,) = comfy.sockets
        await comfy.drop_sockets()
        await until(lambda: bool(comfy.sockets))
        assert first not in comfy.sockets
        comfy.go.set()
        assert (await asking)[0] == 200


async def test_a_restart_in_mid_run_is_told_and_the_run_begun_anew(house: House, comfy: Comfy) -> None:
    comfy.held = True
    async with house(comfy.url, tables="[failover]\nretries = 1\n") as home:
        asking = asyncio.create_task(home.ask())
        await comfy.reached.wait()
        comfy.held = False
        await comfy.restart()
        comfy.go.set()
        status, answer = await asking
    assert status == 200, answer
    assert len(asked(comfy, "/prompt")) == 2


async def test_a_run_that_the_server_lost_says_so(house: House, comfy: Comfy) -> None:
    comfy.held = True
    async with house(comfy.url) as home:
        asking = asyncio.create_task(home.ask())
        await comfy.reached.wait()
        await comfy.restart()
        status, answer = await asking
    assert (status, answer["error"]["code"]) == (502, "upstream_lost_run")


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message", "words", "code"),
    [
        ("ValueError", "cannot read '/srv/models/a.ckpt'\n", "node 2 (Fails) failed: ValueError", "upstream_error"),
        ("torch.OutOfMemoryError", "/srv\n", "node 2 (Fails) ran out of memory", "upstream_out_of_memory"),
        ("RuntimeError", "can't allocate memory: /srv\n", "node 2 (Fails) ran out of memory", "upstream_out_of_memory"),
    ],
)
async def test_a_node_that_fails_is_named_without_what_the_server_says(
    house: House, comfy: Comfy, workflow: Any, kind: str, message: str, words: str, code: str
) -> None:
    async with house(comfy.url, workflow=workflow("Fails", kind=kind, message=message), inputs=PROMPT) as home:
        status, answer = await home.ask()
    assert (status, answer["error"]["message"], answer["error"]["code"]) == (502, f"comfyui: {words}", code)


async def test_another_server_takes_over_and_only_its_picture_is_charged(
    house: House, comfy: Comfy, other_comfy: Comfy
) -> None:
    comfy.loses_files = True
    async with house(comfy.url, other_comfy.url, tables='[[models]]\nname = "x"\nvendor = "comfyui"\n') as home:
        call = Call("images", "test", {}, model="m")
        call.body = Document({"model": "m", "prompt": "p"})
        for _ in range(4):  # whichever is asked first
            completion = await home.gateway.run(Call("images", "test", {}, model="m", body=call.body))
            assert completion.usage is not None
            assert completion.usage.images == 1
    assert len(other_comfy.ran) == 4


async def test_a_picture_that_is_gone_is_told(house: House, comfy: Comfy) -> None:
    comfy.loses_files = True
    async with house(comfy.url) as home:
        status, answer = await home.ask()
    assert (status, answer["error"]["code"]) == (502, "upstream_file_gone")


@pytest.mark.parametrize(
    ("instead", "named"), [((b"<html>Log in</html>", "text/html"), "text/html"), ((b"", "image/png"), "nothing")]
)
async def test_what_is_no_picture_is_not_sold_as_one(house: House, comfy: Comfy, instead: Any, named: str) -> None:
    comfy.instead = instead
    async with house(comfy.url) as home:
        status, answer = await home.ask()
    assert (status, answer["error"]["code"]) == (502, "upstream_malformed")
    assert f"the server gives {named} in place of a picture" in answer["error"]["message"]


async def test_a_picture_whose_line_breaks_is_fetched_again_and_not_made_again(house: House, comfy: Comfy) -> None:
    comfy.cut_files = 2
    async with house(comfy.url) as home:
        status, answer = await home.ask()
    assert (status, len(answer["data"]), len(comfy.ran)) == (200, 1, 1)


async def test_a_workflow_that_is_only_partly_taken_is_a_failure_and_does_not_run(
    house: House, comfy: Comfy, workflow: Any
) -> None:
    broken = workflow("ImageInvert")
    broken["4"] = copy.deepcopy(broken["3"])
    broken["1"]["inputs"]["width"] = 20_000
    comfy.held = True
    async with house(comfy.url, workflow=broken, inputs=PROMPT) as home:
        status, answer = await home.ask()
        assert (status, answer["error"]["code"]) == (502, "upstream_misconfigured")
        assert "node 1 (EmptyImage): Value 20000 bigger than max" in answer["error"]["message"]
        await until(lambda: comfy.remaining == 0 and len(asked(comfy, "/queue")) > 0)


async def test_a_node_that_the_server_does_not_have_is_named(house: House, comfy: Comfy, workflow: Any) -> None:
    async with house(comfy.url, workflow=workflow("NoSuchNode"), inputs=PROMPT) as home:
        status, answer = await home.ask()
    assert (status, answer["error"]["code"]) == (502, "upstream_misconfigured")
    assert "Node 'ID #2' not found" in answer["error"]["message"]


async def test_somebody_s_interruption_is_told_as_one(house: House, comfy: Comfy) -> None:
    comfy.held = True
    async with house(comfy.url) as home:
        asking = asyncio.create_task(home.ask())
        await comfy.reached.wait()
        async with home.http.post(f"{comfy.url}/interrupt"):
            status, answer = await asking
    assert (status, answer["error"]["code"]) == (502, "upstream_interrupted")


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Reply(body=b"<html>", content_type="text/html"), 502, None),
        (Reply(status=500, body=b"Server got itself in trouble", content_type="text/plain"), 502, "upstream_error"),
        (Reply(status=403), 502, "upstream_credential_rejected"),
        (Reply(status=404), 502, "upstream_model_not_found"),
        (Reply(status=503), 503, "upstream_overloaded"),
        (Reply.of_json({"error": "?"}, status=400), 502, "upstream_misconfigured"),
        (Reply.of_json({"node_errors": {"1": None}}), 502, "upstream_misconfigured"),
        (Reply(end="cut"), 502, "upstream_error"),
    ],
)
async def test_what_is_no_comfyui_is_told(house: House, reply: Reply, status: int, code: str | None) -> None:
    async with StubUpstream(reply) as stub, house(stub.url) as home:
        told, answer = await home.ask()
    assert told == status, answer
    assert answer["error"]["message"].startswith("comfyui: ")
    assert code in (None, answer["error"]["code"])


async def test_a_server_that_is_away_is_told_and_costs_nothing(house: House, comfy: Comfy) -> None:
    async with house("http://127.0.0.1:9") as home:
        call = Call("images", "test", {}, model="m")
        call.body = Document({"model": "m", "prompt": "p"})
        with pytest.raises(GatewayError, match=r"^comfyui: ") as told:
            await home.gateway.run(call)
    assert told.value.status == 502


async def test_a_run_may_not_take_longer_than_its_model_s_timeout(house: House, comfy: Comfy, workflow: Any) -> None:
    comfy.held = True
    async with house(comfy.url, options="") as home:
        home.gateway.catalog.amend("test", lambda target: _with_timeout(target, 0.3))
        status, answer = await home.ask(steps=50)
        assert (status, answer["error"]["code"]) == (504, "upstream_timeout")
        await until(lambda: comfy.remaining == 0)


def _with_timeout(target: Any, seconds: float) -> Any:
    from dataclasses import replace

    return replace(target, timeout=seconds)


def refusal(kind: str, message: str, node: str, **about: Any) -> Any:
    """As ComfyUI 0.12.1 refuses a workflow; the reason is in the node's errors only."""
    fault = {"type": kind, "message": message, "details": "/srv/a, b", "extra_info": about}
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""}
    return {"error": error, "node_errors": {node: {"errors": [fault], "class_type": "KSampler"}}}


@pytest.mark.parametrize(
    ("said", "status", "param", "words"),
    [
        (refusal("value_smaller_than_min", "Value 0 smaller than min of 1", "1", input_name="width"),
         400, "width", "width: comfyui: Value 0 smaller than min of 1"),
        (refusal("value_not_in_list", "Value not in list", "2", input_name="sampler_name"),
         502, None, "node 2 (Sampler): Value not in list: sampler_name"),
        (refusal("exception_during_validation", "Exception when validating node", "2"),
         502, None, "node 2 (Sampler): Exception when validating node"),
        ({"error": {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": ""}, "node_errors": {}},
         502, None, "comfyui: the server does not take the workflow: Prompt has no outputs"),
        ({"error": {"type": "missing_node_type", "message": "Node 'My node' not found.", "details": "Node ID '#1'"},
          "node_errors": {}}, 502, None, "Node 'My node' not found."),
        ({}, 502, None, "does not take the workflow"),
    ],
)  # fmt: skip
async def test_why_a_workflow_is_not_taken_is_told_to_whom_it_concerns(
    house: House, said: Any, status: int, param: str | None, words: str
) -> None:
    async with StubUpstream(Reply.of_json(said, status=400)) as stub, house(stub.url) as home:
        told, answer = await home.ask()
    assert (told, answer["error"]["param"]) == (status, param)
    assert words in answer["error"]["message"]
    assert "/srv" not in answer["error"]["message"]
