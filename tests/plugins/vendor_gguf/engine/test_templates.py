"""The chat templates of well-known families of models, with conversations as OpenAI's clients send them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("jinja2", reason="local models need jinja2: pip install 'gatehook[gguf]'")

from gatehook_plugins.vendor_gguf.engine.conversation import messages_for, simpler, tools_for
from gatehook_plugins.vendor_gguf.engine.errors import Invalid
from gatehook_plugins.vendor_gguf.engine.families import HERMES, LLAMA, MISTRAL, Family, family_of
from gatehook_plugins.vendor_gguf.engine.requests import Message, Tool
from gatehook_plugins.vendor_gguf.engine.templates import ChatTemplate, Refused

FOLDER = Path(__file__).parent / "templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
TOOLS = msgspec.convert(
    [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}],
    list[Tool],
)
CALL = {
    "id": "call_17601e3ec71945a7",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"c": "ü"}'},
}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "raining?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": CALL["id"], "content": "It rains."},
]


def rendered(name: str, turns: list[dict[str, Any]], *, tools: bool = False) -> str:
    template = ChatTemplate((FOLDER / f"{name}.jinja").read_text("utf-8"), bos="<BOS>", eos="<EOS>")
    offered = tools_for(TOOLS) if tools else []
    said = messages_for(msgspec.convert(turns, list[Message]), offered, knows_tools=template.knows_tools)
    try:
        return template.render(said, offered, {})
    except Refused:
        return template.render(simpler(said), offered, {})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("deepseek-r1", HERMES),
        ("gemma-2", HERMES),
        ("hermes-3", HERMES),
        ("llama-3.1", LLAMA),
        ("mistral-v3", MISTRAL),
        ("qwen-2.5", HERMES),
    ],
)
def test_a_family_is_known_by_its_template(name: str, family: Family) -> None:
    assert family_of((FOLDER / f"{name}.jinja").read_text("utf-8")) is family
    assert name in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_system_text_reaches_the_model_also_where_the_template_has_no_place_for_one(name: str) -> None:
    text = rendered(name, TURNS[:2])
    assert "Be brief." in text
    assert "raining?" in text
    assert text.index("Be brief.") < text.index("raining?")


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_its_call_and_its_result_reach_the_model(name: str) -> None:
    text = rendered(name, TURNS, tools=True)
    assert text.count("get_weather") >= 2, "offered, and called"
    assert "It rains." in text
    assert "ü" in text


@pytest.mark.parametrize("name", NAMES)
def test_two_turns_of_one_role_in_a_row_are_said(name: str) -> None:
    text = rendered(name, [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
    assert "one" in text
    assert "two" in text


def test_a_refusal_that_nothing_helps_against_is_the_clients() -> None:
    template = ChatTemplate("{{ raise_exception('never') }}", bos="", eos="")
    with pytest.raises(Invalid, match="refuses them: never") as caught:
        template.render([{"role": "user", "content": "x"}], [], {})
    assert caught.value.param == "messages"


def test_ids_are_short_the_same_for_the_same_and_kept_where_they_fit() -> None:
    calls = [{"id": "abcdefgh1"}, {"id": "call_1"}, {"id": "call_1"}, {"id": "call_2"}]
    (message,) = simpler([{"role": "assistant", "content": "", "tool_calls": calls}])
    first, second, same, other = (call["id"] for call in message["tool_calls"])
    assert first == "abcdefgh1"
    assert second == same != other
    assert all(len(one) == 9 and one.isalnum() for one in (first, second, other))
