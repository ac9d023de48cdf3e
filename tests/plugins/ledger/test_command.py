"""`gatehook usage`."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import Command, StartupError
from gatehook.testing import built, serving
from gatehook_plugins.database import DatabasePlugin
from gatehook_plugins.ledger import LedgerPlugin
from gatehook_plugins.ledger.command import since

SETTINGS = """
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.ledger]
directory = "{directory}"
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "m"
vendor = "mock"
pricing = {{ input_per_1k_tokens = 1, output_per_1k_tokens = 2 }}
options = {{ text = "one two three", usage = {{ prompt_tokens = 1000, completion_tokens = 500 }} }}
[[models]]
name = "free-but-nobody-knows"
vendor = "mock"
options = {{ text = "one", usage = {{ prompt_tokens = 1, completion_tokens = 1 }} }}
"""
PLUGINS: dict[str, type] = {"database": DatabasePlugin, "ledger": LedgerPlugin}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> str:
    return SETTINGS.format(url=database_url, directory=tmp_path / "journal")


async def use(settings: str) -> None:
    async with serving(settings, plugins=PLUGINS) as served, ClientSession() as session:
        for model in ("m", "m", "free-but-nobody-knows"):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            async with session.post(f"{served.url}/v1/chat/completions", json=body) as answer:
                assert answer.status == 200


def run(settings: str, *words: str) -> int:
    gateway = built(settings, plugins=PLUGINS)
    commands: dict[str, Command] = {
        command.name: command for _, command in gateway.plugins.collect("register_commands", gateway=gateway)
    }
    return commands["usage"].run(words)


def test_a_table_with_its_sum(settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(use(settings))
    assert run(settings) == 0
    head, free, m, rule, total, note = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "model",
        "requests",
        "failed",
        "prompt",
        "tokens",
        "completion",
        "tokens",
        "tokens",
        "cost",
        "in",
        "$",
    ]
    assert free.split() == ["free-but-nobody-knows", "1", "0", "1", "1", "2", "0.000000"]
    assert m.split() == ["m", "2", "0", "2,000", "1,000", "3,000", "4.000000"]
    assert set(rule) == {"-"}
    assert total.split() == ["total", "3", "0", "2,001", "1,001", "3,002", "4.000000"]
    assert note == "The cost of 1 requests is not known: their model had no pricing."
    assert len(head) == len(m) == len(total)


def test_one_model_by_day_and_user_as_json(settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(use(settings))

    def told(*words: str) -> Any:
        assert run(settings, *words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    (day,) = told("--by", "day", "--model", "m", "--since", "24h")
    assert len(day.pop("day")) == len("2026-11-01")
    figures = {
        "requests": 2, "failed": 0, "unpriced": 0, "prompt_tokens": 2000, "completion_tokens": 1000,
        "total_tokens": 3000, "cost": 4.0,
    }  # fmt: skip
    assert day == figures
    assert told("--by", "user", "--model", "m") == [{"user": "anonymous"} | figures]
    assert told("--user", "somebody else") == []


def test_nothing_was_used(settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings) == 0
    assert capsys.readouterr().out == "nothing was used\n"


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    url = f"postgresql+asyncpg://u:secret@/x?host={tmp_path}"
    with pytest.raises(StartupError) as caught:
        run(SETTINGS.format(url=url, directory=tmp_path / "journal"))
    assert "secret" not in str(caught.value)


def test_words_that_mean_nothing_are_refused(settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--since", "yesterday"), ("--by", "moon"), ("--since", "2026-13-01"), ("x",)):
        with pytest.raises(SystemExit):
            run(settings, *words)
        assert "usage: gatehook usage" in capsys.readouterr().err


def test_since_when() -> None:
    now = 1_800_000_000_000
    assert since("24h", now) == now - 86_400_000
    assert since("7d", now) == now - 7 * 86_400_000
    assert since("1970-01-02", now) == 86_400_000
    for wrong in ("", "h", "-1d", "1.5d", "7w", "2026-1-32", "٣d", "999999d"):
        with pytest.raises(argparse.ArgumentTypeError):
            since(wrong, now)
