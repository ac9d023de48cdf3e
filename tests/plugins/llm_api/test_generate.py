"""POST /generate and /generate/stream, as clients get them."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp
import pytest

from gatehook import Cache, Call, Entry, Gateway, Section, ToolCall, ToolPolicy, Unavailable, Verdict, hookimpl
from gatehook_plugins.llm_api.errors import error_body

OpenLlm = Callable[..., Any]

MOUNTS = ("/api/llm", "/api/v1/llm")
MODELS = """
[[models]]
name = "mock"
vendor = "mock"
pricing = { input_per_1k_tokens = 0.0025, output_per_1k_tokens = 0.01, cached_input_per_1k_tokens = 0.00125 }
options = { text = "Paris.", chunk_size = 3, usage = { prompt_tokens = 1234, completion_tokens = 567, cached_tokens = 1000 } }
[[models]]
name = "cheap"
vendor = "mock"
pricing = { input_per_1k_tokens = 0.0000015, output_per_1k_tokens = 0.0000004 }
options = { text = "x", usage = { prompt_tokens = 1, completion_tokens = 1 } }
[[models]]
name = "unpriced"
vendor = "mock"
options = { text = "x" }
[[models]]
name = "mute"
vendor = "mock"
pricing = { input_per_1k_tokens = 1, output_per_1k_tokens = 1 }
options = { text = "x", report_usage = false }
[[models]]
name = "tools"
vendor = "mock"
options = { tool_calls = [{ name = "get_weather", arguments = { city = "Paris" }, id = "call_1" }] }
[[models]]
name = "cut"
vendor = "mock"
options = { text = "Paris.", chunk_size = 3, fault = { kind = "cut", after = 1 } }
[[models]]
name = "out of order"
vendor = "mock"
options = { fault = { kind = "status", status = 500 } }
[[models]]
name = "overloaded"
vendor = "mock"
options = { fault = { kind = "status", status = 503 } }
[[models]]
name = "busy"
vendor = "mock"
options = { fault = { kind = "status", status = 429, retry_after = 17 } }
[[models]]
name = "no such vendor"
vendor = "acme"
[[models]]
name = "via fallback"
vendor = "mock"
pricing = { input_per_1k_tokens = 9, output_per_1k_tokens = 9 }
options = { fault = { kind = "status", status = 500 } }
fallbacks = ["mock"]
"""  # noqa: E501
COST = {"input_cost": 0.001835, "output_cost": 0.00567, "total_cost": 0.007505}
"""(234 x 0.0025 + 1000 x 0.00125 + 567 x 0.01) / 1000, by hand."""
USAGE = {"prompt_tokens": 1234, "completion_tokens": 567, "total_tokens": 1801}
UNKNOWN = {"input_cost": None, "output_cost": None, "total_cost": None}
EMPTY = {"index": 0, "delta": {}, "finish_reason": None}
FREE = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0}


@pytest.mark.parametrize("mount", MOUNTS)
async def test_an_answer_has_exactly_the_documented_shape_and_its_exact_cost(llm: OpenLlm, mount: str) -> None:
    async with llm(MODELS) as gateway:
        answer = await gateway.ask(f"{mount}/generate", parameters={"temperature": 0.5, "max_tokens": 50})
    assert answer.status == 200
    message = {"role": "assistant", "content": "Paris."}
    assert answer.json["choices"][0]["message"] | message == answer.json["choices"][0]["message"]
    assert answer.json == {
        "id": answer.headers["X-Request-ID"],
        "model": "mock",
        "choices": [{"index": 0, "message": answer.json["choices"][0]["message"], "finish_reason": "stop"}],
        "usage": USAGE,
        "cost": COST,
    }


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize(
    ("path", "parameters"), [("/generate", {"stream": True}), ("/generate/stream", {}), ("/generate/stream", None),
                             ("/generate/stream", {"stream": False})]
)  # fmt: skip
async def test_a_stream_ends_with_usage_and_cost_then_done(
    llm: OpenLlm, mount: str, path: str, parameters: dict[str, Any] | None
) -> None:
    async with llm(MODELS) as gateway:
        answer = await gateway.ask(mount + path, parameters=parameters)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *events, last, done = answer.events
    assert done == "[DONE]"
    stream_id = "stream_" + answer.headers["X-Request-ID"].removeprefix("req_")
    assert last == {"id": stream_id, "choices": [EMPTY], "usage": USAGE, "cost": COST}
    for event in events:
        assert set(event) == {"id", "choices"}
        assert event["id"] == stream_id
        assert [set(choice) for choice in event["choices"]] == [{"index", "delta", "finish_reason"}]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Paris."
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"][0]["finish_reason"]] == [
        "stop"
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        ("cheap", {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
         {"input_cost": 2e-9, "output_cost": 1e-9, "total_cost": 3e-9}),  # 1.5 and 0.4 nano-dollars, rounded up
        ("unpriced", None, UNKNOWN),
        ("via fallback", USAGE, COST),  # by the prices of the deployment that answered
    ],
)  # fmt: skip
async def test_the_cost_is_exact_or_null(llm: OpenLlm, model: str, usage: Any, cost: Any, stream: bool) -> None:
    async with llm(MODELS) as gateway:
        answer = await gateway.ask(model=model, parameters={"stream": stream})
    told = answer.events[-2] if stream else answer.json
    assert told["cost"] == cost
    assert usage is None or told["usage"] == usage


async def test_an_answer_names_the_model_that_gave_it(llm: OpenLlm) -> None:
    async with llm(MODELS.replace('name = "mock"', 'name = "mock"\naliases = ["nick"]', 1)) as gateway:
        named = {model: (await gateway.ask(model=model)).json["model"] for model in ("mock", "nick", "via fallback")}
        failed = (await gateway.ask(model="overloaded")).error(503, "MODEL_UNAVAILABLE")
    assert named == {"mock": "mock", "nick": "nick", "via fallback": "mock"}
    assert failed["details"]["model"] == "overloaded"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_vendor_does_not_tell_is_estimated_as_it_is_charged(llm: OpenLlm, stream: bool) -> None:
    async with llm(MODELS) as gateway:
        answer = await gateway.ask(model="mute", parameters={"stream": stream})
    told = answer.events[-2] if stream else answer.json
    usage, cost = told["usage"], told["cost"]
    assert 0 < usage["prompt_tokens"] < 100
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert cost["total_cost"] == pytest.approx(usage["total_tokens"] / 1000)


class Kept(Cache):
    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}

    async def get(self, key: bytes, call: Call) -> Entry | None:
        return self.entries.get(key)

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        self.entries[key] = entry


class Keeps:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_caches(self, gateway: Gateway) -> Iterable[Cache]:
        return [Kept()]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_out_of_the_cache_costs_nothing(llm: OpenLlm, stream: bool) -> None:
    async with llm(MODELS + "[plugins.keeps]\n", {"keeps": Keeps}) as gateway:
        first, second = [await gateway.ask(parameters={"stream": stream, "n": 2}) for _ in range(2)]
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("miss", "hit")
    told = second.events[-2] if stream else second.json
    assert told["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert told["cost"] == FREE
    assert len(second.json["choices"]) == 2 if not stream else second.events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_is_one_message_of_the_user(llm: OpenLlm, stream: bool) -> None:
    models = '[[models]]\nname = "mock"\nvendor = "mock"\noptions = { mode = "echo" }\n'
    async with llm(models) as gateway:
        answer = await gateway.ask(prompt="Say this 😀", parameters={"stream": stream})
    if stream:
        said = "".join(one["choices"][0]["delta"].get("content", "") for one in answer.events[:-2])
    else:
        said = answer.json["choices"][0]["message"]["content"]
    assert said == "Say this 😀"


async def test_tool_calls_reach_the_client_plain_and_streamed(llm: OpenLlm) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    async with llm(MODELS) as gateway:
        plain = await gateway.ask(model="tools", parameters={"tools": [tool], "tool_choice": "auto"})
        streamed = await gateway.ask(model="tools", parameters={"tools": [tool], "stream": True})
    choice = plain.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    deltas = [call for one in streamed.events[:-2] for call in one["choices"][0]["delta"].get("tool_calls", ())]
    assert deltas[0]["function"]["name"] == "get_weather"
    assert json.loads("".join(one["function"].get("arguments", "") for one in deltas)) == {"city": "Paris"}
    assert streamed.events[-3]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}


async def test_several_choices_come_with_their_indices(llm: OpenLlm) -> None:
    async with llm(MODELS) as gateway:
        plain = await gateway.ask(parameters={"n": 3})
        streamed = await gateway.ask(parameters={"n": 3, "stream": True})
    assert [choice["index"] for choice in plain.json["choices"]] == [0, 1, 2]
    assert {choice["index"] for one in streamed.events[:-1] for choice in one["choices"]} == {0, 1, 2}


async def read_to_the_cut(answer: aiohttp.ClientResponse) -> bytes:
    received = b""
    try:
        while piece := await answer.content.readany():
            received += piece
    except aiohttp.ClientError:
        return received
    raise AssertionError("the answer ended as if it were whole")


async def test_a_stream_that_breaks_ends_with_the_error_event_and_without_done(
    llm: OpenLlm, checked_error: Callable[[Any, str], dict[str, Any]]
) -> None:
    async with llm(MODELS) as gateway:
        async with gateway.http.post(
            f"{gateway.url}/api/llm/generate/stream", json={"model": "cut", "prompt": "Hi"}
        ) as answer:
            assert answer.status == 200
            received = await read_to_the_cut(answer)
        assert b"[DONE]" not in received
        last = json.loads(received.decode().rstrip().split("\n\n")[-1].removeprefix("data: "))
        error = checked_error(last, "MODEL_UNAVAILABLE")
        assert error["details"] == {"model": "cut", "reason": "upstream_truncated", "retry_after": None}
        assert error["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
@pytest.mark.parametrize(
    ("model", "status", "code", "reason", "retry_after"),
    [
        ("nobody", 404, "MODEL_NOT_FOUND", "model_not_found", None),
        ("out of order", 503, "MODEL_UNAVAILABLE", "upstream_error", None),
        ("overloaded", 503, "MODEL_UNAVAILABLE", "upstream_overloaded", None),
        ("busy", 429, "RATE_LIMIT_EXCEEDED", "rate_limit_exceeded", 17.0),
        ("no such vendor", 400, "INVALID_REQUEST", "unknown_vendor", None),
    ],
)
async def test_an_error_names_model_reason_and_request(
    llm: OpenLlm, mount: str, path: str, model: str, status: int, code: str, reason: str, retry_after: float | None
) -> None:
    async with llm(MODELS) as gateway:
        answer = await gateway.ask(mount + path, model=model)
    error = answer.error(status, code)
    assert error["details"] == {"model": model, "reason": reason, "retry_after": retry_after}
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers.get("Retry-After") == (None if retry_after is None else "17")


KEYS = """
[plugins.auth_keys]
keys = ["user-secret-0123456789"]
"""


RESTING = """
[plugins.cooldown]
failure_threshold = 1
[[models]]
name = "m"
vendor = "mock"
options = { fault = { kind = "status", status = 500 } }
[[models]]
name = "m"
vendor = "mock"
model = "second"
options = { fault = { kind = "status", status = 500 } }
"""


@pytest.mark.parametrize("path", ["/api/llm/generate", "/api/v1/llm/generate/stream"])
async def test_a_model_whose_deployments_all_rest_is_unavailable(llm: OpenLlm, path: str) -> None:
    async with llm(RESTING) as gateway:
        await gateway.ask(path, model="m")
        answer = await gateway.ask(path, model="m")
    details = answer.error(503, "MODEL_UNAVAILABLE")["details"]
    assert (details["model"], details["reason"]) == ("m", "deployment_resting")
    assert 0 < details["retry_after"] <= 33  # a rest is of 30 seconds, give or take a tenth
    assert int(answer.headers["Retry-After"]) >= details["retry_after"]


@pytest.mark.parametrize(
    "why", ["model_not_loaded", "model_load_failed", "model_too_large", "no_free_slot", "engine_busy"]
)
def test_a_model_of_this_machine_that_cannot_answer_is_unavailable(why: str) -> None:
    error = json.loads(error_body(Unavailable("it is not there", code=why, retry_after=2.0), model="m"))["error"]
    assert error["code"] == "MODEL_UNAVAILABLE"
    assert error["details"] == {"model": "m", "reason": why, "retry_after": 2.0}


async def test_without_a_good_key_nothing_but_health_answers(llm: OpenLlm) -> None:
    async with llm(MODELS + KEYS) as gateway:
        for key in ("", "wrong-secret-0123456789"):
            for path in ("/api/llm/generate", "/api/v1/llm/generate/stream"):
                answer = await gateway.ask(path, key=key)
                error = answer.error(401, "UNAUTHORIZED")
                assert error["request_id"] == answer.headers["X-Request-ID"]
                assert error["details"] == {"model": None, "reason": "invalid_api_key", "retry_after": None}
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            for path in ("/models", "/models/mock/status", "/stats/usage", "/stats/performance"):
                (await gateway.get("/api/llm" + path, key)).error(401, "UNAUTHORIZED")
            assert (await gateway.get("/api/llm/health", key)).status == 200
        assert (await gateway.ask(key="user-secret-0123456789")).status == 200


class Denies(ToolPolicy):
    async def offer(self, call: Call, tools: Any) -> Any:
        return tools

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        return Verdict("deny", "no weather today")


class DeniesAll:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_tool_policies(self, gateway: Gateway) -> Iterable[ToolPolicy]:
        return [Denies()]


async def test_what_is_denied_is_forbidden(llm: OpenLlm) -> None:
    async with llm(MODELS + "[plugins.denies]\n", {"denies": DeniesAll}) as gateway:
        answer = await gateway.ask(model="tools", parameters={"tools": [
            {"type": "function", "function": {"name": "get_weather"}}]})  # fmt: skip
    assert answer.error(403, "FORBIDDEN")["details"]["reason"] == "tool_call_denied"


async def test_a_body_that_is_none_is_refused_by_its_own_status(llm: OpenLlm) -> None:
    async with llm(MODELS + '[server]\nport = 0\nmax_body = "1KB"\n') as gateway:
        text = await gateway.request("POST", "/api/llm/generate", data=b"hi", headers={"Content-Type": "text/plain"})
        text.error(415, "INVALID_REQUEST")
        large = await gateway.ask(prompt="x" * 2000)
        assert large.error(413, "INVALID_REQUEST")["details"]["reason"] == "request_too_large"
        bad = await gateway.ask(raw=b"{")
        assert bad.error(400, "INVALID_REQUEST")["details"] == {
            "model": None, "reason": "invalid_json", "retry_after": None}  # fmt: skip
        hot = await gateway.ask(parameters={"temperature": 3})
        error = hot.error(400, "INVALID_REQUEST")
        assert error["message"].startswith("parameters.temperature: ")
        assert error["details"]["model"] == "mock"


async def test_a_path_that_is_not_there_answers_in_the_same_shape(llm: OpenLlm) -> None:
    async with llm(MODELS) as gateway:
        for path in ("/api/llm/", "/api/llm/models/mock", "/api/v1/llm/stats", "/api/llm/a/b/c"):
            for method in ("GET", "POST", "DELETE"):
                (await gateway.request(method, path)).error(404, "NOT_FOUND")
