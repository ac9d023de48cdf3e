"""Prompts in, texts out: plain, streamed, and what is wrong with them."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gatehook import Unavailable
from gatehook.testing import Reply, StubUpstream
from gatehook_plugins.generate_api.errors import error_body

Api = Callable[..., AbstractAsyncContextManager[Any]]

ADMIN = "sk-admin-0123456789abcdef"
MODELS = """
[[models]]
name = "m"
vendor = "mock"
options = { text = "The sky is blue.", chunk_size = 4 }
[[models]]
name = "echo"
vendor = "mock"
options = { mode = "echo" }
[[models]]
name = "broken"
vendor = "mock"
options = { fault = { kind = "status", status = 500 } }
[[models]]
name = "cut"
vendor = "mock"
options = { text = "The sky is blue.", chunk_size = 4, fault = { kind = "cut", after = 2 } }
[failover]
retries = 0
"""


async def test_a_prompt_becomes_a_text_with_its_usage_and_seconds(api: Api) -> None:
    async with api(MODELS) as ask:
        answer = await ask("POST", "/generate", {"prompt": "Why?", "model": "m", "max_tokens": 50, "temperature": 0.7})
        assert answer.status == 200
        assert set(answer.json) == {"text", "usage", "latency"}
        assert answer.json["text"] == "The sky is blue."
        usage = answer.json["usage"]
        assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
        assert 0 <= answer.json["latency"] < 20


@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
async def test_a_stream_is_tokens_of_which_the_last_says_that_it_has_finished(api: Api, path: str) -> None:
    async with api(MODELS) as ask:
        answer = await ask("POST", path, {"prompt": "Why?", "model": "m", "stream": path == "/generate"})
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        *tokens, last = answer.events
        assert last == {"token": "", "finished": True}
        assert len(tokens) > 2
        assert all(set(token) == {"token", "finished"} and token["finished"] is False for token in tokens)
        assert "".join(token["token"] for token in tokens) == "The sky is blue."


@pytest.mark.parametrize("model", [None, "default"])
async def test_no_model_and_default_are_the_settings_choice_else_the_first(api: Api, model: str | None) -> None:
    body = {"prompt": "Why?"} | ({} if model is None else {"model": model})
    async with api(MODELS) as ask:
        assert (await ask("POST", "/generate", body)).json["text"] == "The sky is blue."
    chosen = '[plugins.generate_api]\ndefault_model = "echo"\n'
    async with api(MODELS, generate=chosen) as ask:
        assert (await ask("POST", "/generate", body)).json["text"] == "Why?"


@pytest.mark.parametrize("how", ['name = "default"', 'name = "d"\naliases = ["default"]'])
async def test_a_model_called_default_is_the_default_unless_the_settings_choose_another(api: Api, how: str) -> None:
    models = f'{MODELS}[[models]]\n{how}\nvendor = "mock"\noptions = {{ text = "I am it." }}\n'
    async with api(models) as ask:
        for body in ({"prompt": "Why?"}, {"prompt": "Why?", "model": "default"}):
            assert (await ask("POST", "/generate", body)).json["text"] == "I am it."
        assert (await ask("POST", "/models/default/load")).json["name"] == ("d" if "aliases" in how else "default")
    async with api(models, generate='[plugins.generate_api]\ndefault_model = "echo"\n') as ask:
        assert (await ask("POST", "/generate", {"prompt": "Why?", "model": "default"})).json["text"] == "Why?"


async def test_the_first_model_is_the_first_that_its_caller_may_use(api: Api, tmp_path: Path) -> None:
    more = (
        f'[plugins.auth_keys]\nadmin_keys = ["{ADMIN}"]\n[plugins.database]\n[plugins.admin_api]\n'
        f'[database]\nurl = "sqlite+aiosqlite:///{tmp_path / "g.db"}"\n'
    )
    async with api(MODELS, more=more) as ask:
        as_admin = {"Authorization": f"Bearer {ADMIN}"}
        user = {"user_id": "ann", "models": ["echo"]}
        assert (await ask("POST", "//admin/users", user, **as_admin)).status == 201
        key = (await ask("POST", "//admin/users/ann/keys", {}, **as_admin)).json["key"]
        as_ann = {"Authorization": f"Bearer {key}"}
        for body in ({"prompt": "Why?"}, {"prompt": "Why?", "model": "default"}):
            assert (await ask("POST", "/generate", body, **as_ann)).json["text"] == "Why?"
        batch = await ask("POST", "/batch/generate", {"requests": [{"prompt": "Why?"}]}, **as_ann)
        assert batch.json["results"][0]["text"] == "Why?"


async def test_a_system_text_and_other_parameters_go_to_the_model(api: Api) -> None:
    async with api(MODELS) as ask:
        body = {"prompt": "aé😀", "model": "echo", "system": "Be brief.", "top_p": 0.5, "stop": None}
        assert (await ask("POST", "/generate", body)).json["text"] == "aé😀"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": -5}, "max_tokens"),
        ({"prompt": "x", "max_tokens": "9"}, "max_tokens"),
        ({"prompt": "x", "temperature": 50}, "temperature"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "stream": "yes"}, "stream"),
        ({"prompt": "x", "n": 2}, "n"),
        ({"prompt": "x", "model": ""}, "model"),
        ({"prompt": "x", "model": 5}, "model"),
        ({"prompt": "x", "messages": []}, "messages"),
        (b"{", None),
        (b"[]", None),
        (b"", None),
        (b'{"prompt": "x", "temperature": NaN}', None),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
async def test_what_is_wrong_is_named(api: Api, path: str, body: Any, param: str | None) -> None:
    async with api(MODELS) as ask:
        error = (await ask("POST", path, body)).error(400, "INVALID_REQUEST")
        assert error["details"]["param"] == param
        assert set(error["details"]) == {"reason", "param", "retry_after"}


async def test_errors_have_this_apis_shape_and_statuses(api: Api) -> None:
    auth = '[plugins.auth_keys]\nkeys = ["sk-0123456789abcdef"]\n'
    async with api(MODELS, more=auth) as ask:
        (await ask("POST", "/generate", {"prompt": "x"})).error(401, "UNAUTHORIZED")
        (await ask("GET", "/models")).error(401, "UNAUTHORIZED")
    async with api(MODELS) as ask:
        (await ask("POST", "/generate", {"prompt": "x", "model": "none"})).error(404, "MODEL_NOT_FOUND")
        (await ask("POST", "/generate", {"prompt": "x", "model": "broken"})).error(503, "MODEL_UNAVAILABLE")
        (await ask("GET", "/nothing")).error(404, "NOT_FOUND")
        (await ask("GET", "/generate")).error(405, "INVALID_REQUEST")


@pytest.mark.parametrize("why", ["model_not_loaded", "model_load_failed", "model_too_large", "no_free_slot"])
def test_a_model_that_cannot_be_there_is_not_loaded_and_the_reason_says_why(why: str) -> None:
    error = json.loads(error_body(Unavailable("it is not there", code=why, retry_after=2.0)))["error"]
    assert error["code"] == "MODEL_NOT_LOADED"
    assert error["details"] == {"reason": why, "param": None, "retry_after": 2.0}


@pytest.mark.parametrize("why", ["model_disabled", "deployment_resting", "engine_busy"])
def test_a_model_that_cannot_answer_now_is_unavailable_and_the_gateway_is_not(why: str) -> None:
    told = [json.loads(error_body(Unavailable("not now", code=code)))["error"]["code"] for code in (why, None)]
    assert told == ["MODEL_UNAVAILABLE", "SERVICE_UNAVAILABLE"]


async def test_a_stream_that_breaks_ends_with_the_error_and_without_a_finished_token(api: Api) -> None:
    async with api(MODELS) as ask:
        with pytest.raises(Exception, match=r"(?i)payload|not completed"):
            await ask("POST", "/generate/stream", {"prompt": "x", "model": "cut"})


async def test_a_text_in_parts_is_told_without_the_thoughts_among_them(api: Api) -> None:
    """Mistral's reasoning models answer so, whole and streamed."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    said = [thought, {"type": "text", "text": "The sky "}, {"type": "reference", "reference_ids": [1]}]
    parts = [*said, {"type": "text", "text": "is blue."}]
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]}
    deltas = [{"role": "assistant", "content": said}, {"content": "is blue."}]
    pieces = [{"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    pieces.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    stream = b"".join(b"data: %b\n\n" % json.dumps(piece).encode() for piece in pieces) + b"data: [DONE]\n\n"
    async with StubUpstream(Reply.of_json(whole), Reply.of_events(stream)) as stub:
        settings = f'[plugins.vendor_openai]\n[[models]]\nname = "p"\nvendor = "openai"\nbase_url = "{stub.url}/v1"\n'
        async with api(settings) as ask:
            answer = await ask("POST", "/generate", {"prompt": "Why?", "model": "p"})
            streamed = await ask("POST", "/generate/stream", {"prompt": "Why?", "model": "p"})
    assert answer.json["text"] == "The sky is blue."
    assert "".join(token["token"] for token in streamed.events) == "The sky is blue."
