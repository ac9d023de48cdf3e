"""Settings: the tables of models, and what is wrong with them."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from gatehook.config.settings import (
    LimitSettings,
    ModelSettings,
    Section,
)

SENTINEL = "s3ntinel-Zq81-never-shown"


class VendorSettings(Section):
    api_key: SecretStr


MODEL = "[[models]]\nname = 'gpt-4o'\nvendor = 'OpenAI'\n"


def test_a_model_becomes_a_target(at: Any) -> None:
    at.write(
        MODEL
        + "model = 'gpt-4o-2024'\nbase_url = 'https://x.example/v1/'\napi_key = 'env:KEY'\nweight = 2\npriority = 3\n"
        "timeout = 5\nfallbacks = ['small']\nlimits = { max_tokens = 7 }\nstrict = true\noptions = { a = { B = 1 } }\n"
        "[[models]]\nname = 'small'\nvendor = 'mock'"
    )
    settings = at.load(KEY=f" {SENTINEL}\n")
    big, small = settings.targets
    assert (big.key, big.name, big.vendor, big.model) == ("gpt-4o#1", "gpt-4o", "openai", "gpt-4o-2024")
    assert (big.base_url, big.secret(), big.unavailable) == ("https://x.example/v1", SENTINEL, "")
    assert (big.weight, big.priority, big.timeout, big.fallbacks) == (2.0, 3, 5.0, ("small",))
    assert (big.max_tokens, big.strict, big.options) == (7, True, {"a": {"B": 1}})
    assert (small.model, small.base_url, small.api_key, small.max_tokens) == ("small", "", None, None)
    assert (small.weight, small.priority, small.timeout, small.fallbacks, small.strict) == (1.0, 1, 600.0, (), False)
    assert settings.models[0].limits == LimitSettings(max_tokens=7)


def test_keys_count_the_deployments_that_are_switched_on(at: Any) -> None:
    at.write(
        MODEL
        + "weight = 1\n"
        + MODEL
        + "enabled = false\nmodel = 'x'\n"
        + "[[models]]\nname = 'other'\nvendor = 'mock'",
        local=MODEL + "model = 'y'",
    )
    settings = at.load()
    assert [(target.key, target.model) for target in settings.targets] == [
        ("gpt-4o#1", "gpt-4o"), ("other#1", "other"), ("gpt-4o#2", "y"),
    ]  # fmt: skip
    assert len(settings.models) == 4


@pytest.mark.parametrize(
    ("reference", "environ", "reason"),
    [
        ("env:OPENAI_API_KEY", {}, "its api_key refers to $OPENAI_API_KEY, which is not set"),
        ("env:OPENAI_API_KEY", {"OPENAI_API_KEY": " "}, "its api_key refers to $OPENAI_API_KEY, which is empty"),
        (
            "file:none.key",
            {},
            "its api_key refers to the file none.key, which cannot be read: No such file or directory",
        ),
        ("file:empty.key", {}, "its api_key refers to the file empty.key, which is empty"),
    ],
)
def test_a_model_without_its_key_is_unavailable_but_no_fault(
    at: Any, reference: str, environ: Mapping[str, str], reason: str
) -> None:
    (at.directory / "empty.key").write_text("\n")
    [target] = at.write(MODEL + f"api_key = '{reference}'").load(**environ).targets
    assert target.unavailable == reason
    assert target.api_key is None


def test_what_a_reference_leads_to_is_not_followed_further(at: Any) -> None:
    (at.directory / "odd.key").write_text("env:HOME")
    settings = at.write(MODEL + "api_key = 'file:odd.key'\n[plugins.v]\napi_key = 'file:odd.key'").load()
    assert settings.targets[0].secret() == "env:HOME"
    assert settings.plugin_section("v", VendorSettings).api_key.get_secret_value() == "env:HOME"


def test_models_from_the_environment_replace_those_of_the_files(at: Any) -> None:
    at.write(MODEL)
    [target] = at.load(GATEHOOK_MODELS='[{"name": "a", "vendor": "mock", "fallbacks": []}]').targets
    assert target.name == "a"
    assert at.faults(GATEHOOK_MODELS='[{"name": "a", "vendr": "mock"}]') == [
        "$GATEHOOK_MODELS: [[models]] #1 (a) vendor: required, but not set",
        "$GATEHOOK_MODELS: [[models]] #1 (a) vendr: unknown key; did you mean 'vendor'?",
    ]
    assert at.faults(GATEHOOK_MODELS__0__NAME="x") == [
        """$GATEHOOK_MODELS__0__NAME: [[models]]: expected JSON, as in '[{"name": "a", "vendor": "b"}]'"""
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("api_kee = 'x'", "api_kee: unknown key; did you mean 'api_key'?"),
        ("limits = { max_token = 1 }", "limits.max_token: unknown key; did you mean 'max_tokens'?"),
        ("limits = { max_tokens = 0 }", "limits.max_tokens: input should be greater than 0"),
        ("weight = -1", "weight: input should be greater than or equal to 0"),
        ("weight = inf", "weight: input should be a finite number"),
        ("timeout = 0", "timeout: input should be greater than 0"),
        ("api_key = 5", "api_key: input should be a valid string"),
        ("fallbacks = 'x'", "fallbacks: input should be a valid list"),
        ("base_url = 'ftp://x'", "base_url: must be an address such as 'https://host/path'"),
        ("base_url = 'api.openai.com'", "base_url: must be an address such as 'https://host/path'"),
        ("base_url = 'https://'", "base_url: must be an address such as 'https://host/path'"),
        ("base_url = 'http://[::1'", "base_url: must be an address such as 'https://host/path'"),
        ("base_url = 'http://x:99999'", "base_url: must be an address such as 'https://host/path'"),
        ("base_url = 'http://x/a b'", "base_url: must not contain spaces or control characters"),
        ("base_url = 'http://x/?k=1'", "base_url: must not contain '?' or '#'"),
        (
            f"base_url = 'http://me:{SENTINEL}@x/v1'",
            "base_url: must not contain a user name or password; that is what api_key is for",
        ),
        ('model = "a\\nb"', "model: must not contain control characters"),
        ("fallbacks = ['gpt-4']", "fallbacks: no model is named 'gpt-4'; did you mean 'gpt-4o'?"),
        ("fallbacks = ['gpt-4o']", "fallbacks: goes round in a circle: gpt-4o → gpt-4o"),
    ],
)
def test_models_refuse(at: Any, line: str, message: str) -> None:
    at.write("[[models]]\nname = 'first'\nvendor = 'mock'\n" + MODEL + line)
    assert at.faults() == [f"settings.toml: [[models]] #2 (gpt-4o) {message}"]


def test_names_of_models(at: Any) -> None:
    at.write(
        "[[models]]\nvendor = 'x'\n[[models]]\nname = \"a\\u0000b\"\nvendor = ''\n[[models]]\nname = ''\nvendor = 'x'"
    )
    assert at.faults() == [
        "settings.toml: [[models]] #1 name: required, but not set",
        "settings.toml: [[models]] #2 name: must not contain control characters",
        "settings.toml: [[models]] #2 vendor: must not be empty, nor begin or end with a space",
        "settings.toml: [[models]] #3 name: must not be empty, nor begin or end with a space",
    ]


def test_a_deployment_given_twice(at: Any) -> None:
    at.write("[[models]]\nname = 'a'\nvendor = 'mock'\n" + MODEL, local=MODEL + "weight = 5")
    assert at.faults() == [
        (
            "settings.local.toml: [[models]] #1 (gpt-4o): the same deployment as "
            "settings.toml: [[models]] #2 (gpt-4o); weight gives one more calls"
        )
    ]
    at.write(MODEL + "api_key = 'env:A'\n" + MODEL + "api_key = 'env:B'", local=MODEL + "enabled = false")
    assert len(at.load().targets) == 2


def test_fallbacks_named_twice_and_in_circles(at: Any) -> None:
    one = "[[models]]\nname = '{}'\nvendor = 'mock'\nfallbacks = {}\n"
    at.write(
        one.format("a", "['b', 'd', 'd']") + one.format("b", "['c']") + one.format("c", "['a']") + one.format("d", "[]")
    )
    assert at.faults() == [
        "settings.toml: [[models]] #1 (a) fallbacks: 'd' is named twice",
        "settings.toml: [[models]] #1 (a) fallbacks: goes round in a circle: a → b → c → a",
    ]
    at.write(
        one.format("a", "['b', 'c']") + one.format("b", "['d']") + one.format("c", "['d']") + one.format("d", "[]")
    )
    assert len(at.load().targets) == 4  # two ways to one goal are no circle


def test_a_faulty_model_is_still_a_goal_for_fallbacks(at: Any) -> None:
    at.write(MODEL + "fallbacks = ['small']\n[[models]]\nname = 'small'\nvendor = 'mock'\nweight = -1")
    faults = at.faults()
    assert faults == ["settings.toml: [[models]] #2 (small) weight: input should be greater than or equal to 0"]


def test_a_model_built_directly() -> None:
    model = ModelSettings(name="m", vendor="MOCK")
    assert model.to_target("m#1").vendor == "mock"
    assert model.to_target("m#1", "because").unavailable == "because"


def test_secrets_among_a_model_s_options_are_looked_up_and_hidden(at: Any) -> None:
    options = "options = { headers = { api-key = 'env:AZURE_KEY', plain = 'x' }, list = ['env:AZURE_KEY'] }"
    [target] = at.write(MODEL + options).load(AZURE_KEY="sk-sentinel-4711").targets
    assert target.options == {"headers": {"api-key": "sk-sentinel-4711", "plain": "x"}, "list": ["sk-sentinel-4711"]}
    assert target.secrets() == ("", "sk-sentinel-4711", "sk-sentinel-4711")
    assert "sentinel" not in repr(target)


def test_what_is_sent_with_every_request_is_hidden_but_for_short_texts_and_versions(at: Any) -> None:
    headers = "{ x-key = 'sentinel-1', plain = 'x' }"
    query = "{ code = 'sentinel-2', api-version = '2024-10-21', n = 'x', wrong = 12345678 }"
    [target] = at.write(MODEL + f"options = {{ headers = {headers}, query = {query} }}").load().targets
    assert target.secrets() == ("", "sentinel-1", "sentinel-2")


def test_a_secret_among_the_options_that_is_not_there_switches_the_deployment_off(at: Any) -> None:
    [target] = at.write(MODEL + "options = { headers = { api-key = 'env:AZURE_KEY' } }").load().targets
    assert target.unavailable == "a value in its options refers to $AZURE_KEY, which is not set"
