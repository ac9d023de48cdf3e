"""`gatehook keys` and `gatehook users`, on a settings file."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gatehook.commands.cli import main
from gatehook_plugins.database.vault import is_key

Run = Callable[..., Any]


@pytest.fixture
def run(settings: Any, database_url: str, tmp_path: Path, capsys: Any) -> Run:
    """Runs the program; gives what it printed, decoded with --json. Beside it: `.err`, what it told people."""
    file = tmp_path / "settings.toml"
    file.write_text(settings(database_url))

    def command(*words: str, status: int = 0) -> Any:
        got = main([*words, "--config", str(file)])
        out, command.err = capsys.readouterr()  # type: ignore[attr-defined]
        assert got == status, command.err  # type: ignore[attr-defined]
        return json.loads(out) if "--json" in words and not status else out

    return command


def test_a_key_is_made_shown_once_listed_rotated_and_revoked(run: Any) -> None:
    text = run("keys", "create", "--admin").strip()
    assert is_key(text)
    assert "of user admin, an admin key. It is not shown again." in run.err
    (key,) = run("keys", "list", "--json")
    assert (key["user_id"], key["admin"], key["prefix"]) == ("admin", True, text[:8])
    assert text not in run("keys", "list")
    new = run("keys", "rotate", key["id"], "--overlap", "2h", "--json")
    assert is_key(new["key"])
    assert new["key"] != text
    ending = {one["id"]: one["expires"] for one in run("keys", "list", "--json")}
    assert ending[new["id"]] is None
    assert ending[key["id"]] == pytest.approx((time.time() + 7200) * 1000, abs=20_000)
    assert run("keys", "revoke", key["id"]) == f"revoked {key['id']}\n"
    assert [one["id"] for one in run("keys", "list", "--json")] == [new["id"]]
    assert run("keys", "revoke", new["id"][:9], "--json") == {"revoked": new["id"]}
    assert run("keys", "list", "--json") == []


@pytest.mark.parametrize(
    ("expires", "overlap", "good"), [((), (), 86400), ((), ("--overlap", "2h"), 7200), (("--expires", "1h"), (), 3600)]
)
def test_rotation_tells_how_long_the_old_key_stays_good(
    run: Any, expires: tuple[str, ...], overlap: tuple[str, ...], good: int
) -> None:
    key_id = run("keys", "create", *expires, "--json")["id"]
    run("keys", "rotate", key_id, *overlap)
    told = re.search(rf"The old one is good until (.*)Z; `gatehook keys revoke {key_id}` ends it at once\.\n", run.err)
    assert told is not None
    until = datetime.strptime(told[1], "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()
    assert until == pytest.approx(time.time() + good, abs=80)


def test_a_key_can_be_bounded(run: Any) -> None:
    words = ("--user", "anna", "--name", "laptop", "--models", "b, a,", "--expires", "30d", "--json")
    key = run("keys", "create", *words)
    assert (key["user_id"], key["name"], key["models"], key["admin"]) == ("anna", "laptop", ["a", "b"], False)
    assert key["expires"] == pytest.approx((time.time() + 30 * 86400) * 1000, abs=20_000)
    head, row = run("keys", "list").splitlines()
    assert head.split() == ["ID", "BEGINS", "USER", "NAME", "ROLE", "MODELS", "LIMITS", "EXPIRES", "STATE"]
    assert re.fullmatch(
        rf"{key['id']}  {re.escape(key['prefix'])} +anna +laptop +user +a, b +none +\d{{4}}-.*Z +on", row
    )
    assert run("keys", "list", "--user", "ben", "--json") == []
    assert run("users", "list", "--json")[0]["id"] == "anna"


def test_models_that_are_not_there_are_noted(run: Any, tmp_path: Path) -> None:
    off = "[[models]]\nname = 'm'\nvendor = 'mock'\napi_key = 'env:NOT_SET_ANYWHERE'\n"
    (tmp_path / "settings.local.toml").write_text(f"[plugins.vendor_mock]\n{off}")
    unknown = "No model of the settings is named 'mm', 'nope'; `gatehook models` shows them.\n"
    assert run("keys", "create", "--models", "mm,m,m*,nope", "--json")["models"] == ["m", "m*", "mm", "nope"]
    assert run.err == unknown
    run("users", "create", "ben", "--models", "nope,mm", "--json")
    assert run.err == unknown
    run("users", "set", "ben", "--models", "mm,nope", "--json")
    assert run.err == unknown
    for words in (("users", "set", "ben", "--models", "none"), ("users", "set", "ben", "--name", "Ben")):
        run(*words)
        assert run.err == ""
    assert run("keys", "create", "--models", "none", "--json")["models"] is None
    assert run.err == ""


def test_the_beginning_of_a_key_is_enough_if_there_is_one_such(run: Any) -> None:
    keys = [run("keys", "create", "--json") for _ in range(3)]
    run("keys", "revoke", "key_", status=1)
    assert "is the beginning of 3 keys" in run.err
    run("keys", "revoke", "nothing", status=1)
    assert run.err == "there is no key 'nothing'; `gatehook keys list` shows them\n"
    run("keys", "revoke", keys[0]["prefix"])
    assert len(run("keys", "list", "--json")) == 2


def test_words_that_are_empty_mean_nobody_s_key(run: Any) -> None:
    """As a script gives them whose variable is not set."""
    (key,) = [run("keys", "create", "--json")]
    for word in ("revoke", "rotate"):
        run("keys", word, "", status=1)
        assert run.err == "the id of a key must not be empty; `gatehook keys list` shows them\n"
    run("keys", "create", "--user", "", status=1)
    assert run.err.startswith("user_id: must ")
    assert [one["id"] for one in run("keys", "list", "--json")] == [key["id"]]


def test_a_key_that_is_refused_for_its_user_is_told_to_be(run: Any) -> None:
    run("keys", "create", "--user", "anna")
    assert "disabled" not in run.err
    run("users", "disable", "anna")
    run("keys", "create", "--user", "anna")
    assert run.err.endswith("That user is disabled: the key is refused until `gatehook users enable anna`.\n")


def test_a_user_is_made_changed_and_deleted(run: Any) -> None:
    made = run("users", "create", "anna", "--name", "Anna", "--rpm", "60", "--budget-per-month", "12.50", "--json")
    assert (made["name"], made["limits"]["requests_per_minute"]) == ("Anna", 60)
    assert made["caps"]["budget_per_month"] == 12_500_000_000
    changed = run(
        "users", "set", "anna", "--tpm", "0", "--concurrent", "3", "--tokens-per-day", "5", "--rpm", "none",
        "--models", "a,b", "--admin", "--json",
    )  # fmt: skip
    assert changed["limits"] == {"requests_per_minute": None, "tokens_per_minute": 0, "concurrent_requests": 3}
    assert (changed["models"], changed["admin"]) == (["a", "b"], True)
    assert run("users", "show", "anna", "--json") == changed
    shown = run("users", "show", "anna")
    assert "limits   0 tokens/min, 3 at once\n" in shown
    assert "caps     5 tokens/day, $12.5/month\n" in shown
    assert run("users", "set", "anna", "--models", "none", "--no-admin", "--json")["models"] is None
    assert run("users", "disable", "anna", "--json")["disabled"] is True
    assert run("users", "list").splitlines()[1].split()[-1] == "disabled"
    assert run("users", "enable", "anna", "--json")["disabled"] is False
    assert run("users", "delete", "anna") == "deleted anna\n"
    assert run("users", "list", "--json") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("users", "show", "nobody"), "there is no user 'nobody'; `gatehook users list` shows them"),
        (("users", "set", "nobody", "--rpm", "1"), "there is no user 'nobody'; `gatehook users list` shows them\n"),
        (("users", "disable", "nobody"), "there is no user 'nobody'; `gatehook users list` shows them\n"),
        (("users", "delete", "nobody"), "there is no user 'nobody'; `gatehook users list` shows them\n"),
        (("users", "create", "a/b"), "user_id: must not contain '/'"),
        (("users", "create", "a", "--rpm", "9" * 18), "limits.requests_per_minute: must be from 0"),
        (("keys", "create", "--name", "n" * 300), "name: must have 200 characters at most"),
        (("keys", "create", "--expires", "0s"), "expires: must be in the future"),
    ],
)
def test_what_cannot_be_is_told_on_stderr(run: Any, words: Any, said: str) -> None:
    run(*words, status=1)
    assert run.err.startswith(said)
    assert run("users", "list", "--json") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("keys",), "required: {create,list,rotate,revoke}"),
        (("users",), "required: {list,show,create,set,disable,enable,delete}"),
        (("keys", "make"), "invalid choice"),
        (("keys", "create", "--expires", "soon"), "expected a duration such as 15m, 24h or 30d"),
        (("users", "set", "a", "--rpm", "many"), 'expected a whole number, or "none"'),
        (("users", "set", "a", "--budget", "much"), "expected an amount of dollars"),
        (("users", "create", "a", "--budget-per-day=-0.5"), "--budget-per-day: expected 0 dollars or more"),
    ],
)
def test_wrong_words_are_told_with_the_usage(settings: Any, tmp_path: Path, capsys: Any, words: Any, said: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(settings(f"sqlite:///{tmp_path / 'a.db'}"))
    with pytest.raises(SystemExit) as caught:
        main([*words, "--config", str(file)])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


PROGRAM = [
    sys.executable,
    "-W",
    "error",
    "-c",
    "import sys; from gatehook.commands.cli import main; sys.exit(main(sys.argv[1:]))",
]


def test_programs_that_start_together_on_nothing_all_succeed(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[plugins.database]\n")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [
        subprocess.Popen([*PROGRAM, "keys", "create"], cwd=tmp_path, text=True, **pipes)  # type: ignore[call-overload]
        for _ in range(3)
    ]
    done = [(*one.communicate(), one.returncode) for one in started]
    assert [(err.count("not shown again"), status) for _, err, status in done] == [(1, 0)] * 3, done
    assert len({out for out, _, _ in done}) == 3


def test_the_program_makes_a_first_key_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[plugins.database]\n")
    done = subprocess.run(
        [*PROGRAM, "keys", "create", "--admin"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert is_key(done.stdout.strip())
    files = {file.name for file in tmp_path.iterdir()}
    assert {"gatehook.db", "gatehook.db.secret"} <= files
