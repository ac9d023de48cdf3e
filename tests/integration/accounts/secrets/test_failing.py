"""No secret comes out of a gateway that cannot start, nor out of the program's commands."""

import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gatehook import StartupError
from gatehook.commands.cli import main
from gatehook.testing import serving

OpenAccounts = Any
Watch = Any


def failing(secrets: Mapping[str, str], database_url: str) -> dict[str, str]:
    """Settings that cannot be served, each with a secret near the fault."""
    plain, admin = secrets["key of the settings"], secrets["admin key of the settings"]
    password, key = secrets["password of the database"], secrets["vendor key of the settings"]
    redis_password = secrets["password of Redis"]
    accounts = "[plugins.database]\n[plugins.auth_keys]\n[plugins.rate_limit]\n"
    database = f'[database]\nurl = "{database_url}"\nsecret = "{secrets["secret of the database"]}"\n'
    return {
        "redis that is no address": f'[redis]\nurl = "redis://:{redis_password}@host:port"\n{database}{accounts}',
        "redis of another kind": f'[redis]\nurl = "http://:{redis_password}@host"\n{database}{accounts}',
        "a database that is none": f'[database]\nurl = "mysql://root:{password}@host/name"\n{accounts}',
        "a database that is no address": f'[database]\nurl = "{password}"\n{accounts}',
        "a database that is away": f'[database]\nurl = "postgresql+asyncpg://me:{password}@127.0.0.1:9/x"\n'
                                   f'secret = "{secrets["secret of the database"]}"\n{accounts}',
        "another secret": database.replace(secrets["secret of the database"], secrets["what a client says"]) + accounts,
        "a secret that is short": '[database]\nsecret = "zq12data"\n' + accounts,
        "a key that is short": f'[plugins.auth_keys]\nkeys = ["{plain}", "{plain}"]\nadmin_keys = "{admin}"\n',
        "a model that is wrong": f'[[models]]\nname = "m"\nvendor = "openai"\napi_kex = "{key}"\ntimeout = "{key}"\n',
        "no TOML": f'[[models]]\nname = "m"\napi_key = "{key}\n',
        "an issuer's secret that is short": '[plugins.auth_jwt]\nsecret = "zq3issuer"\n',
        "two sources of keys": f'[plugins.auth_jwt]\nsecret = "{secrets["secret of the issuer"]}"\njwks_url = "x"\n',
    }  # fmt: skip


async def command(config: Path, capsys: pytest.CaptureFixture[str], words: str) -> str:
    """What the program prints."""
    with contextlib.suppress(SystemExit):  # of wrong usage
        await asyncio.to_thread(main, [*words.split(), "--config", str(config)])
    printed = capsys.readouterr()
    return printed.out + printed.err


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_failure_to_start_tells_a_secret(
    open_accounts: OpenAccounts, database_url: str, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_accounts(database={"secret": watch.secrets["secret of the database"]}):
        pass  # the database belongs to this secret now
    for name, text in failing(watch.secrets, database_url).items():
        with pytest.raises(StartupError) as caught:
            async with serving("[server]\nport = 0\n" + text):
                pass
        told = "".join(traceback.format_exception(caught.value))
        assert len(caught.value.faults) >= 1
        watch.clean(told, name)
        assert "zq" not in told, f"{name}: a part of one"
    watch.clean(caplog.text, "the log")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_command_tells_a_secret(
    open_accounts: OpenAccounts,
    accounts_text: Any,
    deployments: Any,
    watch: Watch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = deployments("http://127.0.0.1:9", tmp_path / "reference")
    secret = {
        "database": {"secret": watch.secrets["secret of the database"]},
        "plugin_auth_keys": {"admin_keys": [watch.secrets["admin key of the settings"]]},
    }
    config = tmp_path / "settings.toml"
    config.write_text(accounts_text(*models, **secret))
    for words in ("keys create --user alice --json", "keys create --admin --json"):
        printed = json.loads((await command(config, capsys, words)).partition("\n}")[0] + "}")
        watch.add(words, printed["key"])
    lists = ("models", "models --json", "plugins --json", "keys list", "keys list --json", "users list --json",
             "users show alice", "usage", "usage --json")  # fmt: skip
    for words in (*lists, "check", "schema", "keys revoke nothing", "nothing"):
        said = await command(config, capsys, words)
        assert said, words
        watch.clean(said, words)
