"""Pictures of workflows: made as asked, progress told, answers clean."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gatehook import Call, Document, Progress

House = Any
Comfy = Any


def prompts(comfy: Comfy) -> list[Any]:
    """What was submitted."""
    return [body["prompt"] for method, path, _, body in comfy.asked if (method, path) == ("POST", "/prompt")]


async def test_a_picture_is_made_as_asked(house: House, comfy: Comfy, dot: Any) -> None:
    async with house(comfy.url) as home:
        status, answer = await home.ask(size="128x96", seed=11, steps=2)
    assert status == 200, answer
    assert [base64.b64decode(one["b64_json"]) for one in answer["data"]] == [dot()], "the prompt is still in the file"
    (sent,) = prompts(comfy)
    assert sent["1"]["inputs"] == {"width": 128, "height": 96, "color": 0}
    assert (sent["2"]["inputs"]["seed"], sent["2"]["inputs"]["steps"]) == (11, 2)
    assert sent["3"]["inputs"]["filename_prefix"].startswith("a cat_")
    assert comfy.history == {}, "what was fetched is forgotten at the server"


async def test_the_metadata_stays_where_the_operator_wants_it(house: House, comfy: Comfy) -> None:
    async with house(comfy.url, options="keep_metadata = true") as home:
        _, answer = await home.ask()
    assert b"tEXtprompt" in base64.b64decode(answer["data"][0]["b64_json"])


async def test_several_pictures_have_seeds_of_their_own_and_random_ones_if_none_is_given(
    house: House, comfy: Comfy
) -> None:
    async with house(comfy.url) as home:
        _, given = await home.ask(n=3, seed=1_000_000)
        _, drawn = await home.ask(n=2)
    assert (len(given["data"]), len(drawn["data"])) == (3, 2)
    seeds = [sent["2"]["inputs"]["seed"] for sent in prompts(comfy)]
    assert seeds[:3] == [1_000_000, 0, 1], "the bounds hold"
    assert 7 not in seeds[3:]
    assert all(0 <= seed <= 1_000_000 for seed in seeds)


async def test_the_same_request_again_gives_a_picture_though_the_server_has_it_cached(
    house: House, comfy: Comfy
) -> None:
    async with house(comfy.url) as home:
        assert (await home.ask(seed=1))[0] == 200
        steps = comfy.steps
        comfy.files.clear()  # an operator tidies up
        assert (await home.ask(seed=1))[0] == 200
    assert comfy.steps == steps, "what is cached need not be computed again"


async def test_a_chat_shows_the_picture_in_its_text_and_as_a_list(house: House, comfy: Comfy, dot: Any) -> None:
    async with house(comfy.url) as home:
        status, answer = await home.chat()
    url = f"data:image/png;base64,{base64.b64encode(dot()).decode()}"
    (choice,) = answer["choices"]
    assert (status, choice["finish_reason"]) == (200, "stop")
    assert choice["message"]["content"] == f"![picture]({url})"
    assert choice["message"]["images"] == [{"type": "image_url", "image_url": {"url": url}}]
    assert answer["usage"]["total_tokens"] == 0


async def test_pictures_are_given_by_url_where_files_are_kept(
    house: House, comfy: Comfy, dot: Any, tmp_path: Path
) -> None:
    async with house(comfy.url, tables=f'[plugins.files]\ndirectory = "{tmp_path}/files"\n') as home:
        _, drawn = await home.ask(response_format="url")
        _, said = await home.chat()
        for url in (drawn["data"][0]["url"], said["choices"][0]["message"]["images"][0]["image_url"]["url"]):
            async with home.http.get(home.url + url) as answer:
                assert await answer.read() == dot()


async def test_a_url_is_refused_before_anything_is_made_where_no_files_are_kept(house: House, comfy: Comfy) -> None:
    async with house(comfy.url) as home:
        status, answer = await home.ask(response_format="url")
    assert (status, answer["error"]["param"]) == (400, "response_format")
    assert comfy.asked == []


async def test_a_stream_begins_with_the_run_and_brings_the_picture_in_one_piece(house: House, comfy: Comfy) -> None:
    comfy.held = True
    async with house(comfy.url, tables="[server]\nport = 0\nheartbeat = 0.02\n") as home:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "a cat"}]}
        body["stream_options"] = {"include_usage": True}
        async with home.http.post(f"{home.url}/v1/chat/completions", json=body) as answer:
            lines: list[str] = []
            async for line in answer.content:
                lines.append(line.decode().strip())
                if lines[-1] == ": keep-alive":
                    comfy.go.set()
    assert lines.count(": keep-alive") >= 1
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert lines[-2] == "data: [DONE]"
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"][:11] for delta in deltas[1:] if delta.get("content")] == ["![picture]("]
    assert [event["usage"]["total_tokens"] for event in events if event.get("usage")] == [0]


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("draw this", "draw this"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
    ],
)
async def test_the_last_message_of_the_user_is_the_prompt(
    house: House, comfy: Comfy, content: Any, prompt: str
) -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": content},
    ]
    async with house(comfy.url) as home:
        status, _ = await home.ask("/v1/chat/completions", messages=messages, temperature=1)
    assert status == 200
    assert prompts(comfy)[0]["3"]["inputs"]["filename_prefix"].startswith(f"{prompt}_")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"size": "20000x5"}, "width", "bigger than max"),
        ({"steps": 51}, "steps", "at most 50"),
        ({"seed": 1_000_001}, "seed", "at most 1000000"),
    ],
)
async def test_a_value_out_of_bounds_is_the_client_s_fault_and_named(
    house: House, comfy: Comfy, body: Any, param: str, words: str
) -> None:
    async with house(comfy.url) as home:
        status, answer = await home.ask(**body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert words in answer["error"]["message"]
    assert comfy.ran == []


async def test_what_the_workflow_has_no_place_for_is_told(house: House, comfy: Comfy) -> None:
    body = {"model": "m", "prompt": "p", "quality": "hd", "style": "auto", "negative_prompt": "n", "user": "u"}
    async with house(comfy.url) as home, home.http.post(f"{home.url}/v1/images/generations", json=body) as answer:
        assert answer.status == 200
        assert answer.headers["X-Gatehook-Dropped-Params"] == "quality, negative_prompt"


async def test_progress_is_told_by_steps_of_all_nodes_and_previews(house: House, comfy: Comfy) -> None:
    told: list[Progress] = []
    async with house(comfy.url) as home:
        call = Call("images", "test", {}, model="m", choices=2, progress=told.append)
        call.body = Document({"model": "m", "prompt": "p", "n": 2})
        await home.gateway.run(call)
    fractions = [one.fraction for one in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    by_message = {one.message: one.fraction for one in told if one.fraction < 0.5}
    assert by_message["Sampler: step 1 of 4"] == pytest.approx((1 + 1) / 6 / 2)
    assert by_message["Sampler: step 3 of 4"] == pytest.approx((1 + 3) / 6 / 2)
    assert {one.preview[:3] for one in told if one.preview} == {b"\xff\xd8\xff"}


async def test_who_waits_is_told_their_place(house: House, comfy: Comfy) -> None:
    comfy.held = True
    told: list[Progress] = []
    async with house(comfy.url) as home:
        first = asyncio.create_task(home.ask())
        await comfy.reached.wait()

        def progress(one: Progress) -> None:
            told.append(one)
            if one.queue_position is not None:
                comfy.go.set()

        call = Call("images", "test", {}, model="m", progress=progress)
        call.body = Document({"model": "m", "prompt": "p"})
        await home.gateway.run(call)
        assert (await first)[0] == 200
    assert told[0].queue_position == 1


async def test_large_previews_do_not_break_the_socket(house: House, comfy: Comfy) -> None:
    comfy.frame = 5 << 20
    told: list[Progress] = []
    async with house(comfy.url) as home:
        call = Call("images", "test", {}, model="m", progress=told.append)
        call.body = Document({"model": "m", "prompt": "p", "steps": 1})
        await home.gateway.run(call)
        assert len(comfy.sockets) == 1
    assert max(len(one.preview) for one in told) > 5 << 20


async def test_one_socket_serves_all_runs_and_no_origin_is_sent(house: House, comfy: Comfy) -> None:
    async with house(comfy.url) as home:
        answers = await asyncio.gather(*(home.ask() for _ in range(8)))
    assert [status for status, _ in answers] == [200] * 8
    assert [path for _, path, _, _ in comfy.asked].count("/ws") == 1
    assert not any("Origin" in headers for _, _, headers, _ in comfy.asked)
    assert len({body["client_id"] for _, path, _, body in comfy.asked if path == "/prompt"}) == 1
    assert len({body["prompt_id"] for _, path, _, body in comfy.asked if path == "/prompt"}) == 8


async def test_one_workflow_serves_several_models(house: House, comfy: Comfy) -> None:
    inputs = 'prompt = "3.filename_prefix"\nmodel = { node = "1.color", type = "text" }\n'
    more = f'[[models]]\nname = "other"\nvendor = "comfyui"\nmodel = "sdxl.safetensors"\nbase_url = "{comfy.url}"\n'
    async with house(comfy.url, inputs=inputs) as home:
        options = home.gateway.settings.targets[0].options
        more += f'[models.options]\nworkflow = "{options["workflow"]}"\n[models.options.inputs]\n{inputs}'
    async with house(comfy.url, inputs=inputs, tables=more) as home:
        await home.ask()
        await home.ask(model="other")
    assert [sent["1"]["inputs"]["color"] for sent in prompts(comfy)] == [0, "sdxl.safetensors"]
