"""Rules: the strictest of those that fit holds, whatever their order."""

import fnmatch
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gatehook_plugins.tool_policy.rules import Rule, Rules
from gatehook_plugins.tool_policy.standing import Configured, Standing

STRICTNESS = ["allow", "confirm", "deny"]
NAMES = st.text("abc_", min_size=1, max_size=4)
PATTERNS = st.one_of(st.just("*"), NAMES, NAMES.map(lambda name: name[:1] + "*"), st.just("?"), st.just("[ab]*"))
RULES = st.lists(
    st.builds(
        Rule,
        tool=PATTERNS,
        user=PATTERNS,
        model=PATTERNS,
        verdict=st.sampled_from(STRICTNESS),
        reason=st.sampled_from(["", "one", "two"]),
    ),
    max_size=6,
)


@given(RULES, NAMES, NAMES, st.sets(NAMES, min_size=1, max_size=3), st.sampled_from(STRICTNESS), st.randoms())
def test_the_strictest_rule_that_fits_wins_in_any_order(
    rules: list[Rule], tool: str, user: str, models: set[str], default: Any, chance: Any
) -> None:
    fitting = [
        rule.verdict
        for rule in rules
        if fnmatch.fnmatchcase(tool, rule.tool)
        and fnmatch.fnmatchcase(user, rule.user)
        and any(fnmatch.fnmatchcase(model, rule.model) for model in models)
    ]
    found = Rules(rules, default).verdict(tool, user, models)
    assert found.kind == max(fitting, key=STRICTNESS.index, default=default)
    chance.shuffle(rules)
    assert Rules(rules, default).verdict(tool, user, models) == found


def test_nobody_gets_round_a_rule_by_writing_the_tool_s_name_in_capitals() -> None:
    rules = Rules([Rule(tool="delete_*", verdict="deny")], "allow")
    assert rules.verdict("Delete_All", "u", {"m"}).kind == "deny"
    assert rules.verdict("delete_all\n", "u", {"m"}).kind == "deny"
    assert rules.verdict("undelete_all", "u", {"m"}).kind == "allow"


def test_users_and_models_are_told_apart_by_case() -> None:
    rules = Rules([Rule(user="Ann", verdict="deny"), Rule(model="GPT-*", verdict="confirm")], "allow")
    assert rules.verdict("t", "ann", {"gpt-4"}).kind == "allow"
    assert rules.verdict("t", "ann", {"other", "GPT-4"}).kind == "confirm"
    assert rules.verdict("t", "Ann", {"GPT-4"}).kind == "deny"


def test_the_reason_is_that_of_the_strictest() -> None:
    rules = Rules([Rule(verdict="confirm", reason="ask"), Rule(tool="x", verdict="deny", reason="never")], "allow")
    assert rules.verdict("x", "u", {"m"}).reason == "never"
    assert rules.verdict("y", "u", {"m"}).reason == "ask"


class Directory:
    """What an administrator has set, and who is told."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.changed: Any = None

    def config(self, name: str) -> tuple[dict[str, Any], int]:
        return (self.value, 1) if name == "tool-policy" else ({}, 0)

    def subscribe(self, changed: Any) -> None:
        self.changed = changed

    def set(self, **value: Any) -> None:
        self.value = value
        self.changed("config", "tool-policy")


def test_what_is_set_at_run_time_joins_the_settings_rules_and_goes_again() -> None:
    standing, directory = Standing([Rule(tool="rm", verdict="deny")], "allow"), Directory()
    standing.follow(directory)  # type: ignore[arg-type]
    directory.set(default="confirm", rules=[{"tool": "rm", "verdict": "allow"}, {"tool": "ls", "verdict": "allow"}])
    assert [standing.verdict(tool, "u", {"m"}).kind for tool in ("rm", "ls", "cp")] == ["deny", "allow", "confirm"]
    directory.set()
    assert [standing.verdict(tool, "u", {"m"}).kind for tool in ("rm", "ls", "cp")] == ["deny", "allow", "allow"]


def test_what_cannot_be_read_denies_everything(caplog: pytest.LogCaptureFixture) -> None:
    standing, directory = Standing([], "allow"), Directory()
    standing.follow(directory)  # type: ignore[arg-type]
    directory.set(rules=[{"tool": "ls", "verdict": "perhaps"}])
    assert standing.verdict("ls", "u", {"m"}).kind == "deny"
    assert "cannot be read" in caplog.text
    directory.set(rules=[])
    assert standing.verdict("ls", "u", {"m"}).kind == "allow"


@pytest.mark.parametrize(
    "rule",
    [{}, {"verdict": "perhaps"}, {"verdict": "deny", "tol": "x"}, {"verdict": "deny", "tool": ""}, {"tool": "x"}],
)
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Configured.model_validate({"rules": [rule]})
