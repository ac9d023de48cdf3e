"""Settings: every message an operator may meet, word for word."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PositiveInt, SecretStr

from gatehook.config.sections import parse_size
from gatehook.config.settings import Section, ServerSettings
from gatehook.errors import StartupError

SENTINEL = "s3ntinel-Zq81-never-shown"


class RateLimitSettings(Section):
    burst: PositiveInt = 10
    requests_per_minute: PositiveInt = 60


class VendorSettings(Section):
    api_key: SecretStr


class KeysSettings(Section):
    keys: list[SecretStr] = Field(default=[])
    table: dict[str, int] = Field(default={})
    maybe: list[str] | None = None
    either: str | list[str] = ""


class Rule(BaseModel, extra="forbid"):
    tool: str
    verdict: Literal["allow", "deny"] = "allow"


class PolicySettings(Section):
    rules: list[Rule] = Field(default=[])


# --- messages: sections ---------------------------------------------------------------------------------------------


def test_wrong_values_name_their_layer_section_and_key(at: Any) -> None:
    at.write("[plugins.rate_limit]\nburst = 5")
    assert at.section_faults("rate_limit", RateLimitSettings, GATEHOOK_PLUGINS__RATE_LIMIT__BURST="x") == [
        (
            "$GATEHOOK_PLUGINS__RATE_LIMIT__BURST: [plugins.rate_limit] burst: "
            "input should be a valid integer, unable to parse string as an integer"
        )
    ]
    at.write(local="[plugins.rate_limit]\nburst = 0", main="[plugins.rate_limit]\nburst = 5")
    assert at.section_faults("rate_limit", RateLimitSettings) == [
        "settings.local.toml: [plugins.rate_limit] burst: input should be greater than 0"
    ]


def test_a_layer_is_named_even_if_it_repeats_the_value_below(at: Any) -> None:
    at.write("[plugins.rate_limit]\nburst = 0", local="[plugins.rate_limit]\nburst = 0")
    faults = at.section_faults("rate_limit", RateLimitSettings)
    assert faults == ["settings.local.toml: [plugins.rate_limit] burst: input should be greater than 0"]


def test_unknown_keys_come_with_the_nearest_one(at: Any) -> None:
    at.write("[plugins.rate_limit]\nBurst = 5\nzzz = 1\nrequests = 7")
    assert at.section_faults("rate_limit", RateLimitSettings, GATEHOOK_PLUGINS__RATE_LIMIT__BRUST="1") == [
        "settings.toml: [plugins.rate_limit] Burst: unknown key; did you mean 'burst'?",
        "settings.toml: [plugins.rate_limit] zzz: unknown key",
        "settings.toml: [plugins.rate_limit] requests: unknown key; did you mean 'requests_per_minute'?",
        "$GATEHOOK_PLUGINS__RATE_LIMIT__BRUST: [plugins.rate_limit] brust: unknown key; did you mean 'burst'?",
    ]


def test_what_pydantic_settings_takes_for_instructions_is_an_unknown_key(at: Any) -> None:
    at.write("[server]\n_env_file = 'x'\n_cli_parse_args = true\n[[models]]\nname = 'm'\nvendor = 'v'\nlimits._x = 1")
    assert at.faults() == [
        "settings.toml: [server] _env_file: unknown key",
        "settings.toml: [server] _cli_parse_args: unknown key",
        "settings.toml: [[models]] #1 (m) limits._x: unknown key",
    ]


def test_unknown_keys_deep_inside(at: Any) -> None:
    at.write(
        "[[plugins.policy.rules]]\ntool = 'a'\nverdct = 'deny'",
        local="[[plugins.policy.rules]]\ntool = 'b'\n[[plugins.policy.rules]]\nverdict = 'perhaps'",
    )
    assert at.section_faults("policy", PolicySettings) == [
        "settings.toml: [plugins.policy] rules[0].verdct: unknown key; did you mean 'verdict'?",
        "settings.local.toml: [plugins.policy] rules[1].tool: required, but not set",
        "settings.local.toml: [plugins.policy] rules[1].verdict: input should be 'allow' or 'deny'",
    ]


def test_a_joined_list_counts_within_its_file(at: Any) -> None:
    rule = "[[plugins.policy.rules]]\ntool = 'a'\n"
    at.write(rule, local=rule, secrets="[[plugins.policy.rules]]\ntool = 5")  # equal lists are not joined by dynaconf
    faults = at.section_faults("policy", PolicySettings)
    assert faults == [".secrets.toml: [plugins.policy] rules[0].tool: input should be a valid string"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("weight = true", "weight"),
        ("limits = { max_tokens = true }", "limits.max_tokens"),
        ("pricing = { input_per_1k_tokens = 1, output_per_1k_tokens = false }", "pricing.output_per_1k_tokens"),
    ],
)
def test_switches_are_no_numbers_inside_of_tables_either(at: Any, line: str, key: str) -> None:
    at.write(f"[[models]]\nname = 'm'\nvendor = 'v'\n{line}")
    assert at.faults() == [f"settings.toml: [[models]] #1 (m) {key}: must be a number, not true or false"]


def test_switches_are_no_numbers_in_json_of_variables_either(at: Any) -> None:
    at.write("[plugins.k]")
    assert at.section_faults("k", KeysSettings, GATEHOOK_PLUGINS__K__TABLE='{"a": true}') == [
        "$GATEHOOK_PLUGINS__K__TABLE: [plugins.k] table.a: must be a number, not true or false"
    ]


@pytest.mark.parametrize("kind", [int | bool, float | Literal[False], Any])
def test_switches_may_stand_beside_numbers(at: Any, kind: Any) -> None:
    class Either(Section):
        most: kind = 1

    assert at.write("[plugins.k]\nmost = false").load().plugin_section("k", Either).most is False


def test_a_required_key_that_nobody_set(at: Any) -> None:
    at.write("[plugins.vendor_openai]", local="[plugins.vendor_openai]\norder = 1")
    assert at.section_faults("vendor_openai", VendorSettings) == [
        (
            "settings.toml: [plugins.vendor_openai] api_key: required, but not set "
            "(in a file, or as $GATEHOOK_PLUGINS__VENDOR_OPENAI__API_KEY)"
        )
    ]


@pytest.mark.parametrize("value", [SENTINEL, f'["{SENTINEL}', f'"{SENTINEL}"', "5", ""])
def test_json_that_is_none(at: Any, value: str) -> None:
    at.write("[plugins.auth_keys]")
    assert at.section_faults("auth_keys", KeysSettings, GATEHOOK_PLUGINS__AUTH_KEYS__KEYS=value) == [
        """$GATEHOOK_PLUGINS__AUTH_KEYS__KEYS: [plugins.auth_keys] keys: expected JSON, as in '["a", "b"]'"""
    ]
    assert at.section_faults("auth_keys", KeysSettings, GATEHOOK_PLUGINS__AUTH_KEYS__TABLE=value) == [
        """$GATEHOOK_PLUGINS__AUTH_KEYS__TABLE: [plugins.auth_keys] table: expected JSON, as in '{"a": 1}'"""
    ]


def test_a_text_in_a_file_where_a_list_belongs(at: Any) -> None:
    at.write("[plugins.auth_keys]\nkeys = '[1]'")
    faults = at.section_faults("auth_keys", KeysSettings)
    assert faults == ["settings.toml: [plugins.auth_keys] keys: input should be a valid list"]


def test_wrong_json_values_are_blamed_on_the_variable(at: Any) -> None:
    at.write("[plugins.k]\ntable = { a = 1 }")
    faults = at.section_faults(
        "k", KeysSettings, GATEHOOK_PLUGINS__K__TABLE='{"a": []}', GATEHOOK_PLUGINS__K__MAYBE='["a", 5]'
    )
    assert faults == [
        "$GATEHOOK_PLUGINS__K__TABLE: [plugins.k] table.a: input should be a valid integer",
        "$GATEHOOK_PLUGINS__K__MAYBE: [plugins.k] maybe[1]: input should be a valid string",
    ]


def test_names_of_plugins_nobody_installed(at: Any) -> None:
    at.write("[plugins.rate_limit]", local="[plugins.qqq]\nenabled = false")
    settings = at.load(GATEHOOK_PLUGINS__RATE_LIMMIT__ENABLED="true")
    assert settings.faults_of_plugin_names(["rate_limit", "metrics"]) == [
        "settings.local.toml: [plugins.qqq]: no such plugin is installed; install what brings it, or remove the table",
        (
            "$GATEHOOK_PLUGINS__RATE_LIMMIT__ENABLED: [plugins.rate_limmit]: no such plugin is installed; "
            "did you mean 'rate_limit'?"
        ),
    ]
    assert settings.faults_of_plugin_names(["rate_limit", "rate_limmit", "qqq"]) == []


@pytest.mark.parametrize(
    ("written", "environ", "enabled"),
    [
        ("", {}, True),
        ("enabled = true", {}, True),
        ("enabled = false", {}, False),
        ("enabled = 0", {}, False),
        ("", {"GATEHOOK_PLUGINS__X__ENABLED": "false"}, False),
        ("", {"GATEHOOK_PLUGINS__X__ENABLED": "0"}, False),
        ("", {"GATEHOOK_PLUGINS__X__ENABLED": "Off"}, False),
        ("enabled = false", {"GATEHOOK_PLUGINS__X__ENABLED": "true"}, True),
        ("", {"GATEHOOK_PLUGINS__X__ENABLED": "perhaps"}, True),  # on, so that its section is read and refused
    ],
)
def test_switching_plugins(at: Any, written: str, environ: Mapping[str, str], enabled: bool) -> None:
    settings = at.write(f"[plugins.x]\n{written}").load(**environ)
    assert settings.plugin_enabled("x") is enabled
    assert settings.plugin_names() == ["x"]
    assert settings.plugin_enabled("y") is False


@pytest.mark.parametrize("word", ["false", "0", "off", "f", "no", "n", "False", "true", "1", "on", "t", "yes", "y"])
def test_switch_words_mean_what_pydantic_takes_them_for(at: Any, word: str) -> None:
    settings = at.write("[plugins.x]").load(GATEHOOK_PLUGINS__X__ENABLED=word)
    assert settings.plugin_enabled("x") is settings.plugin_section("x", Section).enabled


def test_a_section_that_is_not_there_is_an_empty_one(at: Any) -> None:
    assert at.write().load().plugin_section("rate_limit", RateLimitSettings) == RateLimitSettings()


# --- messages: files, top level, kernel tables ----------------------------------------------------------------------


def test_files_that_are_no_toml(at: Any) -> None:
    at.write("[server\nport = 1", local="[plugins.rate_limit")
    (at.directory / ".secrets.toml").write_bytes(b"a = '\xff'")
    faults = at.faults()
    assert faults[0].startswith(
        "settings.toml: not valid TOML: Expected ']' at the end of a table declaration (at line 1"
    )
    assert faults[1].startswith("settings.local.toml: not valid TOML: Expected ']' at the end of a table declaration")
    assert faults[2] == ".secrets.toml: not valid UTF-8, at byte 5"
    assert len(faults) == 3


def test_everything_wrong_is_told_at_once(at: Any) -> None:
    at.write(
        "prot = 1\n[servre]\nport = 1\n[server]\nport = 65536\nhots = 'x'\n[failover]\nretries = 11\n"
        "stall_timeout = inf",
        local="server = 5\nplugins = 6\nmodels = 7",
        secrets="[plugins]\nx = 1\n[models]",
    )
    faults = at.faults(
        GATEHOOK_EGRES__PROXY="x",
        GATEHOOK_SERVER_PORT="1",
        GATEHOOK_SERVER="1",
        GATEHOOK_PLUGINS__X="1",
        GATEHOOK_EGRESS____PROXY="1",
        GATEHOOK_MODELS="[1]",
        LISTEN_MODE="http",
    )
    assert sorted(faults) == sorted(
        [
            "settings.toml: [prot]: a key outside any section",
            "settings.toml: [servre]: unknown section; did you mean 'server'?",
            "settings.toml: [server] port: input should be less than or equal to 65535",
            "settings.toml: [server] hots: unknown key; did you mean 'host'?",
            "settings.toml: [failover] retries: input should be less than or equal to 10",
            "settings.toml: [failover] stall_timeout: input should be a finite number",
            "settings.local.toml: [server]: expected a table",
            "settings.local.toml: [plugins]: expected a table",
            "settings.local.toml: [[models]]: expected [[models]] tables",
            ".secrets.toml: [plugins.x]: expected a table",
            ".secrets.toml: [[models]]: expected [[models]] tables",
            "$GATEHOOK_EGRES__PROXY: [egres]: unknown section; did you mean 'egress'?",
            "$GATEHOOK_SERVER_PORT: unknown variable; did you mean 'GATEHOOK_SERVER__PORT'?",
            "$GATEHOOK_SERVER: [server]: expected a table",
            "$GATEHOOK_PLUGINS__X: [plugins.x]: expected a table",
            "$GATEHOOK_EGRESS____PROXY: names are joined by two underscores, and none is empty",
            """$GATEHOOK_MODELS: [[models]]: expected JSON, as in '[{"name": "a", "vendor": "b"}]'""",
            "$LISTEN_MODE: [server] uds: LISTEN_MODE is TCP or UDS",
        ]
    )


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("server", "host = ''", "host: must not be empty, nor begin or end with a space"),
        ("server", "port = true", "port: must be a number, not true or false"),
        ("failover", "stall_timeout = false", "stall_timeout: must be a number, not true or false"),
        ("server", "port = -1", "port: input should be greater than or equal to 0"),
        ("server", "shutdown_grace = -1", "shutdown_grace: input should be greater than or equal to 0"),
        ("server", "shutdown_grace = inf", "shutdown_grace: input should be a finite number"),
        ("server", "max_body = 0", "max_body: input should be greater than 0"),
        (
            "server",
            "max_body = '1 mile'",
            "max_body: expected a number of bytes, or a size such as '512KB', '32MB' or '1GB'",
        ),
        ("egress", "connect_timeout = 0", "connect_timeout: input should be greater than 0"),
        ("egress", "connect_timeout = nan", "connect_timeout: input should be a finite number"),
        ("egress", "proxy = 'socks5://x'", "proxy: must be an address such as 'https://host/path'"),
        ("egress", "proxy = 'http://x:port'", "proxy: must be an address such as 'https://host/path'"),
        ("failover", "retries = -1", "retries: input should be greater than or equal to 0"),
        ("failover", "enabled = true", "enabled: unknown key"),
    ],
)
def test_kernel_tables_refuse(at: Any, table: str, line: str, message: str) -> None:
    assert at.write(f"[{table}]\n{line}").faults() == [f"settings.toml: [{table}] {message}"]


def test_a_proxy_with_a_password_works_and_is_not_shown(at: Any) -> None:
    egress = at.write(f"[egress]\nproxy = 'http://me:{SENTINEL}@proxy:3128/'").load().egress
    assert egress.proxy == f"http://me:{SENTINEL}@proxy:3128"
    assert SENTINEL not in repr(egress)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (ServerSettings(), True),
        (ServerSettings(host="localhost"), True),
        (ServerSettings(host="127.5.0.1"), True),
        (ServerSettings(host="::1"), True),
        (ServerSettings(host="[::1]"), True),
        (ServerSettings(host="0.0.0.0"), False),
        (ServerSettings(host="::"), False),
        (ServerSettings(host="example.com"), False),
        (ServerSettings(host="0.0.0.0", uds="/run/x.sock"), True),
    ],
)
def test_is_loopback(server: ServerSettings, expected: bool) -> None:
    assert server.is_loopback() is expected


def test_max_concurrent_models_adds_to_the_plugin_s_table_and_makes_none(at: Any) -> None:
    class Local(Section):
        max_concurrent_models: int = 3

    at.write("")
    assert at.load(MAX_CONCURRENT_MODELS="5").plugin_names() == []
    at.write("[plugins.vendor_gguf]\nenabled = false\nmax_concurrent_models = 2")
    for environ, found in (({}, 2), ({"MAX_CONCURRENT_MODELS": "5"}, 5), ({"MAX_CONCURRENT_MODELS": " "}, 2)):
        settings = at.load(**environ)
        assert not settings.plugin_enabled("vendor_gguf")
        assert settings.plugin_section("vendor_gguf", Local).max_concurrent_models == found
    with pytest.raises(StartupError, match=r"\$MAX_CONCURRENT_MODELS: \[plugins.vendor_gguf\] max_concurrent_models"):
        at.load(MAX_CONCURRENT_MODELS="many").plugin_section("vendor_gguf", Local)


def test_listen_mode(at: Any) -> None:
    at.write("[server]\nuds = '/from/file'")
    assert at.load(UDS_PATH="/ignored").server.uds == "/from/file"
    assert at.load(LISTEN_MODE="UDS", UDS_PATH="/run/x.sock").server.uds == "/run/x.sock"
    assert at.load(LISTEN_MODE="uds", UDS_PATH="/x", GATEHOOK_SERVER__UDS="/y").server.uds == "/x"
    assert at.load(LISTEN_MODE="TCP", UDS_PATH="/run/x.sock").server.uds == ""
    assert at.load(LISTEN_MODE="").server.uds == "/from/file"
    assert at.faults(LISTEN_MODE="UDS") == [
        "$LISTEN_MODE: [server] uds: LISTEN_MODE=UDS needs the path of the socket in $UDS_PATH"
    ]
    assert at.faults(LISTEN_MODE="pigeon") == ["$LISTEN_MODE: [server] uds: LISTEN_MODE is TCP or UDS"]


@given(
    st.integers(0, 10**6), st.sampled_from(["", "B", "KB", "MB", "GB", "TB"]), st.booleans(), st.sampled_from(["", " "])
)
def test_sizes(number: int, unit: str, lower: bool, gap: str) -> None:
    factor = 1024 ** ["B", "KB", "MB", "GB", "TB"].index(unit or "B")
    text = f"{number}{gap}{unit.lower() if lower else unit}"
    assert parse_size(text) == number * factor
    assert parse_size(number) == number


@given(st.one_of(st.text(), st.floats(), st.booleans(), st.none()))
def test_no_other_thing_is_a_size(value: object) -> None:
    try:
        size = parse_size(value)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{size} bytes" if isinstance(value, str) and value.strip()[:1].isdecimal() else "no size at all"
    sizes = ("expected a number of bytes, or a size such as '512KB', '32MB' or '1GB'", "bytes")
    assert message.endswith(sizes)
