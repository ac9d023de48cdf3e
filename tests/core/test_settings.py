"""Settings: layers, types, secrets, and every message an operator may meet, word for word."""

import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PositiveInt, SecretStr, ValidationError, field_validator

from gatehook.errors import StartupError
from gatehook.sections import parse_size
from gatehook.settings import (
    EgressSettings,
    FailoverSettings,
    LimitSettings,
    ModelSettings,
    Section,
    ServerSettings,
    Settings,
    faults_of_plugin_names,
    json_schema,
    load,
)

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


class Vault(BaseModel, extra="forbid"):
    token: SecretStr = Field(min_length=8)
    others: dict[str, SecretStr] = {}


class DeepSettings(Section):
    vault: Vault | None = None
    vaults: list[Vault] = Field(default=[])
    pair: tuple[SecretStr, int] | None = None
    strange: SecretStr | None = None
    number: int = 0

    @field_validator("strange")
    @classmethod
    def _tell_tale(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            raise ValueError(f"what a strange secret: {value.get_secret_value()}")
        return value


@pytest.fixture(autouse=True)
def environment_is_left_alone() -> Iterator[None]:
    def variables() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}

    before = variables()
    yield
    assert variables() == before


@pytest.fixture
def at(tmp_path: Path) -> "Files":
    return Files(tmp_path)


class Files:
    """Settings files in one directory, and what loading them gives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "settings.toml"

    def write(self, main: str = "", local: str | None = None, secrets: str | None = None) -> "Files":
        for name, text in (("settings.toml", main), ("settings.local.toml", local), (".secrets.toml", secrets)):
            if text is not None:
                (self.directory / name).write_text(text, encoding="utf-8")
        return self

    def load(self, **environ: str) -> Settings:
        return load(self.path, environ)

    def faults(self, **environ: str) -> list[str]:
        with pytest.raises(StartupError) as caught:
            self.load(**environ)
        return caught.value.faults

    def section_faults(self, name: str, cls: type[Section], **environ: str) -> list[str]:
        settings = self.load(**environ)
        with pytest.raises(StartupError) as caught:
            settings.plugin_section(name, cls)
        return caught.value.faults


# --- finding and stacking -------------------------------------------------------------------------------------------


def test_an_empty_file_gives_every_default(at: Files) -> None:
    settings = at.write().load()
    assert settings.server == ServerSettings()
    assert settings.egress == EgressSettings()
    assert settings.failover == FailoverSettings()
    assert (settings.models, settings.targets, settings.plugin_names()) == ((), (), [])
    assert settings.layers == ("settings.toml",)
    assert settings.path == at.path


def test_the_documented_defaults() -> None:
    assert ServerSettings().model_dump() == {
        "host": "127.0.0.1", "port": 8080, "uds": "", "allow_anonymous": False, "shutdown_grace": 30.0,
        "max_body": 32 * 1024 * 1024, "read_timeout": 60.0,
        "write_timeout": 60.0, "workers": 1, "heartbeat": 15.0, "blocked_warning": 1.0, "blocked_limit": 60.0,
    }  # fmt: skip
    assert EgressSettings().model_dump() == {
        "connect_timeout": 10.0, "max_response": 64 * 1024 * 1024, "proxy": "", "allow_private_urls": False,
        "max_fetch": 20 * 1024 * 1024,
    }  # fmt: skip
    assert FailoverSettings().model_dump() == {
        "first_token_timeout": 30.0, "stall_timeout": 30.0, "retries": 2, "retry_after_cap": 10.0,
        "max_attempts": 8, "budget": 120.0,
    }  # fmt: skip


def test_each_layer_beats_the_ones_before_it(at: Files) -> None:
    at.write(
        main="[server]\nhost = '10.0.0.1'\nport = 1\nshutdown_grace = 1\nmax_body = 1",
        local="[server]\nport = 2\nshutdown_grace = 2\nmax_body = 2",
        secrets="[server]\nshutdown_grace = 3\nmax_body = 3",
    )
    settings = at.load(GATEHOOK_SERVER__MAX_BODY="4KB")
    server = settings.server
    assert (server.host, server.port, server.shutdown_grace, server.max_body) == ("10.0.0.1", 2, 3.0, 4096)
    assert settings.layers == (
        "settings.toml", "settings.local.toml", ".secrets.toml", "$GATEHOOK_SERVER__MAX_BODY",
    )  # fmt: skip


def test_a_file_of_another_name_has_its_own_local_file(at: Files) -> None:
    at.path = at.directory / "my.toml"
    at.path.write_text("[server]\nport = 1")
    (at.directory / "my.local.toml").write_text("[server]\nport = 2")
    (at.directory / "settings.local.toml").write_text("[server]\nport = 3")
    assert at.load().server.port == 2


def test_where_the_file_is_looked_for(at: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(at.directory)
    with pytest.raises(StartupError) as caught:
        load(environ={})
    expected = f"no settings file: $GATEHOOK_CONFIG is not set, and there is no {at.path}"
    assert caught.value.faults == [expected]
    at.write("[server]\nport = 1")
    assert load(environ={}).server.port == 1
    (at.directory / "other.toml").write_text("[server]\nport = 2")
    assert load(environ={"GATEHOOK_CONFIG": "other.toml"}).server.port == 2
    assert load(Path("settings.toml"), {"GATEHOOK_CONFIG": "other.toml"}).server.port == 1


def test_a_file_that_is_named_must_exist(at: Files) -> None:
    assert at.faults() == [f"{at.path}: cannot be read: No such file or directory"]


def test_the_process_environment_is_the_default(at: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("GATEHOOK_SERVER__PORT", "77")
        assert load(at.write().path).server.port == 77
        assert load(at.path, {}).server.port == 8080


def test_two_loads_know_nothing_of_each_other(at: Files, tmp_path: Path) -> None:
    other = Files(tmp_path / "other")
    other.directory.mkdir()
    at.write("[plugins.a]\n[plugins.v]\napi_key = 'env:KEY'")
    other.write("[plugins.b]\n[plugins.v]\napi_key = 'env:KEY'")
    first, second = at.load(KEY="one", GATEHOOK_SERVER__PORT="1"), other.load(KEY="two")
    assert (first.plugin_names(), second.plugin_names()) == (["a", "v"], ["b", "v"])
    assert (first.server.port, second.server.port) == (1, 8080)
    keys = [each.plugin_section("v", VendorSettings).api_key.get_secret_value() for each in (first, second)]
    assert keys == ["one", "two"]


def test_dynaconfs_own_variables_change_nothing(at: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    at.write("[plugins.x]\nburst = 1\n[plugins.y]", local="[plugins.x]\nrequests_per_minute = 2")
    with monkeypatch.context() as patch:
        for name in ("MERGE_ENABLED", "AUTO_CAST", "ENVIRONMENTS", "CORE_LOADERS", "LOADERS", "DOTTED_LOOKUP"):
            patch.setenv(f"{name}_FOR_DYNACONF", "false")
        patch.setenv("SETTINGS_FILE_FOR_DYNACONF", "elsewhere.toml")
        settings = at.load()
    assert settings.plugin_names() == ["x", "y"]
    assert settings.plugin_section("x", RateLimitSettings) == RateLimitSettings(burst=1, requests_per_minute=2)


def test_a_byte_order_mark_is_no_obstacle(at: Files) -> None:
    at.path.write_text("[server]\nport = 1", encoding="utf-8-sig")
    assert at.load().server.port == 1


def test_values_are_frozen(at: Files) -> None:
    settings = at.write().load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1
    with pytest.raises(AttributeError):
        settings.server = ServerSettings()  # type: ignore[misc]


def test_built_directly_a_section_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("BURST", "7")
        patch.setenv("burst", "7")
        assert RateLimitSettings(burst=3).burst == 3
        assert RateLimitSettings().burst == 10


def test_only_plugins_can_be_switched_off_ordered_and_skipped() -> None:
    assert set(Section.model_fields) == {"enabled", "order", "on_error", "guards"}
    assert not set(Section.model_fields) & (set(ServerSettings.model_fields) | set(EgressSettings.model_fields))


# --- traps of the environment and of merging ------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1e5", "0123456", "true", "[1]", "@int 5", "@format {env[HOME]}", "@del ", "a=b"])
def test_a_text_from_a_variable_stays_the_text_it_is(at: Files, value: str) -> None:
    section = at.write("[plugins.v]").load(GATEHOOK_PLUGINS__V__API_KEY=value).plugin_section("v", VendorSettings)
    assert section.api_key.get_secret_value() == value


@pytest.mark.parametrize("value", ["@format {env[HOME]}", "@jinja {{ 1 }}", "@int 5", "@none ", "@merge a"])
def test_a_text_from_a_file_stays_the_text_it_is(at: Files, value: str) -> None:
    section = at.write(f"[plugins.v]\napi_key = '{value}'").load().plugin_section("v", VendorSettings)
    assert section.api_key.get_secret_value() == value


def test_tables_are_merged_and_lists_joined_once(at: Files) -> None:
    at.write(
        "[plugins.k]\nmaybe = ['a', 'b']\ntable = { a = 1 }", local="[plugins.k]\nmaybe = ['c']\ntable = { b = 2 }"
    )
    section = at.load().plugin_section("k", KeysSettings)
    assert (section.maybe, section.table) == (["a", "b", "c"], {"a": 1, "b": 2})


def test_dynaconfs_own_orders_are_refused(at: Files) -> None:
    at.write("[server]\ndynaconf_merge = false", local="[plugins.k]\nmaybe = ['dynaconf_merge_unique']")
    refused = "dynaconf_merge has no place here: tables and lists always merge"
    assert at.faults() == [f"settings.toml: [server]: {refused}", f"settings.local.toml: [plugins]: {refused}"]


def test_a_list_from_the_environment_replaces(at: Files) -> None:
    at.write("[plugins.k]\nmaybe = ['a', 'b']", local="[plugins.k]\nmaybe = ['c']")
    assert at.load(GATEHOOK_PLUGINS__K__MAYBE='["z"]').plugin_section("k", KeysSettings).maybe == ["z"]


def test_json_is_decoded_only_where_the_type_calls_for_it(at: Files) -> None:
    settings = at.write("[plugins.k]").load(
        GATEHOOK_PLUGINS__K__TABLE='{"a": 1}', GATEHOOK_PLUGINS__K__EITHER='["a"]', GATEHOOK_PLUGINS__K__ORDER="3"
    )
    section = settings.plugin_section("k", KeysSettings)
    assert (section.table, section.either, section.order) == ({"a": 1}, '["a"]', 3)


def test_a_variable_reaches_into_tables(at: Files) -> None:
    at.write("[plugins.k.table]\nFirst = 1")
    section = at.load(GATEHOOK_PLUGINS__K__TABLE__FIRST="5", GATEHOOK_PLUGINS__K__TABLE__NEXT="6")
    assert section.plugin_section("k", KeysSettings).table == {"First": 5, "next": 6}


def test_a_table_and_a_key_in_it_cannot_both_be_variables(at: Files) -> None:
    faults = at.write().faults(GATEHOOK_PLUGINS__K__TABLE='{"a": 1}', GATEHOOK_PLUGINS__K__TABLE__B="2")
    assert faults == [
        "$GATEHOOK_PLUGINS__K__TABLE__B: $GATEHOOK_PLUGINS__K__TABLE sets the whole table already; use one or the other"
    ]


def test_what_kubernetes_says_of_a_service_called_gatehook_is_no_setting(at: Files) -> None:
    at.write().load(
        GATEHOOK_SERVICE_HOST="10.0.0.1",
        GATEHOOK_SERVICE_PORT="80",
        GATEHOOK_SERVICE_PORT_HTTP="80",
        GATEHOOK_PORT="tcp://10.0.0.1:80",
        GATEHOOK_PORT_80_TCP="tcp://10.0.0.1:80",
        GATEHOOK_PORT_80_TCP_PROTO="tcp",
        GATEHOOK_PORT_80_TCP_ADDR="10.0.0.1",
        GATEHOOK_REDIS_SERVICE_HOST="10.0.0.2",
        GATEHOOK_REDIS_PORT="tcp://10.0.0.2:6379",
    )


def test_a_variable_that_settings_refer_to_is_no_setting(at: Files) -> None:
    at.write("[plugins.k]\nkeys = ['env:GATEHOOK_ADMIN_KEY']")
    settings = at.load(GATEHOOK_ADMIN_KEY="hello")
    assert settings.plugin_section("k", KeysSettings).keys[0].get_secret_value() == "hello"
    settings = at.write("").load(GATEHOOK_ADMIN_KEY="hello", GATEHOOK_PLUGINS__K__KEYS='["env:GATEHOOK_ADMIN_KEY"]')
    assert settings.plugin_section("k", KeysSettings).keys[0].get_secret_value() == "hello"


# --- messages: sections ---------------------------------------------------------------------------------------------


def test_wrong_values_name_their_layer_section_and_key(at: Files) -> None:
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


def test_a_layer_is_named_even_if_it_repeats_the_value_below(at: Files) -> None:
    at.write("[plugins.rate_limit]\nburst = 0", local="[plugins.rate_limit]\nburst = 0")
    faults = at.section_faults("rate_limit", RateLimitSettings)
    assert faults == ["settings.local.toml: [plugins.rate_limit] burst: input should be greater than 0"]


def test_unknown_keys_come_with_the_nearest_one(at: Files) -> None:
    at.write("[plugins.rate_limit]\nBurst = 5\nzzz = 1")
    assert at.section_faults("rate_limit", RateLimitSettings, GATEHOOK_PLUGINS__RATE_LIMIT__BRUST="1") == [
        "settings.toml: [plugins.rate_limit] Burst: unknown key; did you mean 'burst'?",
        "settings.toml: [plugins.rate_limit] zzz: unknown key",
        "$GATEHOOK_PLUGINS__RATE_LIMIT__BRUST: [plugins.rate_limit] brust: unknown key; did you mean 'burst'?",
    ]


def test_what_pydantic_settings_takes_for_instructions_is_an_unknown_key(at: Files) -> None:
    at.write("[server]\n_env_file = 'x'\n_cli_parse_args = true\n[[models]]\nname = 'm'\nvendor = 'v'\nlimits._x = 1")
    assert at.faults() == [
        "settings.toml: [server] _env_file: unknown key",
        "settings.toml: [server] _cli_parse_args: unknown key",
        "settings.toml: [[models]] #1 (m) limits._x: unknown key",
    ]


def test_unknown_keys_deep_inside(at: Files) -> None:
    at.write(
        "[[plugins.policy.rules]]\ntool = 'a'\nverdct = 'deny'",
        local="[[plugins.policy.rules]]\ntool = 'b'\n[[plugins.policy.rules]]\nverdict = 'perhaps'",
    )
    assert at.section_faults("policy", PolicySettings) == [
        "settings.toml: [plugins.policy] rules[0].verdct: unknown key; did you mean 'verdict'?",
        "settings.local.toml: [plugins.policy] rules[1].tool: required, but not set",
        "settings.local.toml: [plugins.policy] rules[1].verdict: input should be 'allow' or 'deny'",
    ]


def test_a_joined_list_counts_within_its_file(at: Files) -> None:
    rule = "[[plugins.policy.rules]]\ntool = 'a'\n"
    at.write(rule, local=rule, secrets="[[plugins.policy.rules]]\ntool = 5")  # equal lists are not joined by dynaconf
    faults = at.section_faults("policy", PolicySettings)
    assert faults == [".secrets.toml: [plugins.policy] rules[0].tool: input should be a valid string"]


def test_a_required_key_that_nobody_set(at: Files) -> None:
    at.write("[plugins.vendor_openai]", local="[plugins.vendor_openai]\norder = 1")
    assert at.section_faults("vendor_openai", VendorSettings) == [
        (
            "settings.toml: [plugins.vendor_openai] api_key: required, but not set "
            "(in a file, or as $GATEHOOK_PLUGINS__VENDOR_OPENAI__API_KEY)"
        )
    ]


@pytest.mark.parametrize("value", [SENTINEL, f'["{SENTINEL}', f'"{SENTINEL}"', "5", ""])
def test_json_that_is_none(at: Files, value: str) -> None:
    at.write("[plugins.auth_keys]")
    assert at.section_faults("auth_keys", KeysSettings, GATEHOOK_PLUGINS__AUTH_KEYS__KEYS=value) == [
        """$GATEHOOK_PLUGINS__AUTH_KEYS__KEYS: [plugins.auth_keys] keys: expected JSON, as in '["a", "b"]'"""
    ]
    assert at.section_faults("auth_keys", KeysSettings, GATEHOOK_PLUGINS__AUTH_KEYS__TABLE=value) == [
        """$GATEHOOK_PLUGINS__AUTH_KEYS__TABLE: [plugins.auth_keys] table: expected JSON, as in '{"a": 1}'"""
    ]


def test_a_text_in_a_file_where_a_list_belongs(at: Files) -> None:
    at.write("[plugins.auth_keys]\nkeys = '[1]'")
    faults = at.section_faults("auth_keys", KeysSettings)
    assert faults == ["settings.toml: [plugins.auth_keys] keys: input should be a valid list"]


def test_wrong_json_values_are_blamed_on_the_variable(at: Files) -> None:
    at.write("[plugins.k]\ntable = { a = 1 }")
    faults = at.section_faults(
        "k", KeysSettings, GATEHOOK_PLUGINS__K__TABLE='{"a": []}', GATEHOOK_PLUGINS__K__MAYBE='["a", 5]'
    )
    assert faults == [
        "$GATEHOOK_PLUGINS__K__TABLE: [plugins.k] table.a: input should be a valid integer",
        "$GATEHOOK_PLUGINS__K__MAYBE: [plugins.k] maybe[1]: input should be a valid string",
    ]


def test_names_of_plugins_nobody_installed(at: Files) -> None:
    at.write("[plugins.rate_limit]", local="[plugins.qqq]\nenabled = false")
    settings = at.load(GATEHOOK_PLUGINS__RATE_LIMMIT__ENABLED="true")
    assert faults_of_plugin_names(settings, ["rate_limit", "metrics"]) == [
        "settings.local.toml: [plugins.qqq]: no such plugin is installed",
        (
            "$GATEHOOK_PLUGINS__RATE_LIMMIT__ENABLED: [plugins.rate_limmit]: no such plugin is installed; "
            "did you mean 'rate_limit'?"
        ),
    ]
    assert faults_of_plugin_names(settings, ["rate_limit", "rate_limmit", "qqq"]) == []


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
def test_switching_plugins(at: Files, written: str, environ: Mapping[str, str], enabled: bool) -> None:
    settings = at.write(f"[plugins.x]\n{written}").load(**environ)
    assert settings.plugin_enabled("x") is enabled
    assert settings.plugin_names() == ["x"]
    assert settings.plugin_enabled("y") is False


@pytest.mark.parametrize("word", ["false", "0", "off", "f", "no", "n", "False", "true", "1", "on", "t", "yes", "y"])
def test_switch_words_mean_what_pydantic_takes_them_for(at: Files, word: str) -> None:
    settings = at.write("[plugins.x]").load(GATEHOOK_PLUGINS__X__ENABLED=word)
    assert settings.plugin_enabled("x") is settings.plugin_section("x", Section).enabled


def test_a_section_that_is_not_there_is_an_empty_one(at: Files) -> None:
    assert at.write().load().plugin_section("rate_limit", RateLimitSettings) == RateLimitSettings()


# --- messages: files, top level, kernel tables ----------------------------------------------------------------------


def test_files_that_are_no_toml(at: Files) -> None:
    at.write("[server\nport = 1", local="[plugins.rate_limit")
    (at.directory / ".secrets.toml").write_bytes(b"a = '\xff'")
    faults = at.faults()
    assert faults[0].startswith(
        "settings.toml: not valid TOML: Expected ']' at the end of a table declaration (at line 1"
    )
    assert faults[1].startswith("settings.local.toml: not valid TOML: Expected ']' at the end of a table declaration")
    assert faults[2] == ".secrets.toml: not valid UTF-8, at byte 5"
    assert len(faults) == 3


def test_everything_wrong_is_told_at_once(at: Files) -> None:
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
def test_kernel_tables_refuse(at: Files, table: str, line: str, message: str) -> None:
    assert at.write(f"[{table}]\n{line}").faults() == [f"settings.toml: [{table}] {message}"]


def test_a_proxy_with_a_password_works_and_is_not_shown(at: Files) -> None:
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


def test_max_concurrent_models_adds_to_the_plugin_s_table_and_makes_none(at: Files) -> None:
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


def test_listen_mode(at: Files) -> None:
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


# --- models ---------------------------------------------------------------------------------------------------------

MODEL = "[[models]]\nname = 'gpt-4o'\nvendor = 'OpenAI'\n"


def test_a_model_becomes_a_target(at: Files) -> None:
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


def test_keys_count_the_deployments_that_are_switched_on(at: Files) -> None:
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
    at: Files, reference: str, environ: Mapping[str, str], reason: str
) -> None:
    (at.directory / "empty.key").write_text("\n")
    [target] = at.write(MODEL + f"api_key = '{reference}'").load(**environ).targets
    assert target.unavailable == reason
    assert target.api_key is None


def test_what_a_reference_leads_to_is_not_followed_further(at: Files) -> None:
    (at.directory / "odd.key").write_text("env:HOME")
    settings = at.write(MODEL + "api_key = 'file:odd.key'\n[plugins.v]\napi_key = 'file:odd.key'").load()
    assert settings.targets[0].secret() == "env:HOME"
    assert settings.plugin_section("v", VendorSettings).api_key.get_secret_value() == "env:HOME"


def test_models_from_the_environment_replace_those_of_the_files(at: Files) -> None:
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
def test_models_refuse(at: Files, line: str, message: str) -> None:
    at.write("[[models]]\nname = 'first'\nvendor = 'mock'\n" + MODEL + line)
    assert at.faults() == [f"settings.toml: [[models]] #2 (gpt-4o) {message}"]


def test_names_of_models(at: Files) -> None:
    at.write(
        "[[models]]\nvendor = 'x'\n[[models]]\nname = \"a\\u0000b\"\nvendor = ''\n[[models]]\nname = ''\nvendor = 'x'"
    )
    assert at.faults() == [
        "settings.toml: [[models]] #1 name: required, but not set",
        "settings.toml: [[models]] #2 name: must not contain control characters",
        "settings.toml: [[models]] #2 vendor: must not be empty, nor begin or end with a space",
        "settings.toml: [[models]] #3 name: must not be empty, nor begin or end with a space",
    ]


def test_a_deployment_given_twice(at: Files) -> None:
    at.write("[[models]]\nname = 'a'\nvendor = 'mock'\n" + MODEL, local=MODEL + "weight = 5")
    assert at.faults() == [
        (
            "settings.local.toml: [[models]] #1 (gpt-4o): the same deployment as "
            "settings.toml: [[models]] #2 (gpt-4o); weight gives one more calls"
        )
    ]
    at.write(MODEL + "api_key = 'env:A'\n" + MODEL + "api_key = 'env:B'", local=MODEL + "enabled = false")
    assert len(at.load().targets) == 2


def test_fallbacks_named_twice_and_in_circles(at: Files) -> None:
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


def test_a_faulty_model_is_still_a_goal_for_fallbacks(at: Files) -> None:
    at.write(MODEL + "fallbacks = ['small']\n[[models]]\nname = 'small'\nvendor = 'mock'\nweight = -1")
    faults = at.faults()
    assert faults == ["settings.toml: [[models]] #2 (small) weight: input should be greater than or equal to 0"]


def test_a_model_built_directly() -> None:
    model = ModelSettings(name="m", vendor="MOCK")
    assert model.to_target("m#1").vendor == "mock"
    assert model.to_target("m#1", "because").unavailable == "because"


# --- secrets --------------------------------------------------------------------------------------------------------


def test_secrets_are_found_wherever_they_are(at: Files) -> None:
    (at.directory / "keys").mkdir()
    (at.directory / "keys" / "a").write_text(f"{SENTINEL}-file\n")
    at.write(
        "[plugins.d]\nvault = { token = 'file:keys/a', others = { x = 'env:X', y = 'as it stands' } }\n"
        "vaults = [{ token = 'env:X' }]\npair = ['env:X', 5]"
    )
    section = at.load(X=f"{SENTINEL}-env").plugin_section("d", DeepSettings)
    assert section.vault is not None
    assert section.pair is not None
    assert section.vault.token.get_secret_value() == f"{SENTINEL}-file"
    assert section.vault.others["x"].get_secret_value() == f"{SENTINEL}-env"
    assert section.vault.others["y"].get_secret_value() == "as it stands"
    assert section.vaults[0].token.get_secret_value() == f"{SENTINEL}-env"
    assert section.pair[0].get_secret_value() == f"{SENTINEL}-env"


def test_secrets_that_are_not_there(at: Files) -> None:
    (at.directory / "binary").write_bytes(b"\xff")
    at.write(
        "[plugins.k]\nkeys = ['env:NOT_SET', 'env:EMPTY', 'file:none', 'file:binary', 'env:not-a-name', 'file:']",
    )
    refers = "settings.toml: [plugins.k] keys[{}]: refers to {}".format
    assert at.section_faults("k", KeysSettings, EMPTY="") == [
        refers(0, "$NOT_SET, which is not set"),
        refers(1, "$EMPTY, which is empty"),
        refers(2, "the file none, which cannot be read: No such file or directory"),
        refers(3, "the file binary, which cannot be read: not a UTF-8 text"),
        refers(4, "an environment variable, but what follows 'env:' is not the name of one"),
        refers(5, "the file , which cannot be read: Is a directory"),
    ]


def test_a_reference_is_judged_by_what_it_leads_to(at: Files) -> None:
    at.write("[plugins.d]\nvault = { token = 'env:SHORT_ONE' }")
    assert at.section_faults("d", DeepSettings, SHORT_ONE="short") == [
        "settings.toml: [plugins.d] vault.token: value should have at least 8 items after validation, not 5"
    ]


def test_texts_that_are_no_secrets_are_not_looked_up(at: Files) -> None:
    settings = at.write("[plugins.k]\neither = 'env:HOME'\n[[models]]\nname = 'env:X'\nvendor = 'v'").load()
    assert settings.plugin_section("k", KeysSettings).either == "env:HOME"
    assert settings.targets[0].name == "env:X"


@pytest.mark.parametrize("through", ["file", "env:SECRET", "file:secret", "variable"])
def test_a_secret_is_never_shown(at: Files, through: str) -> None:
    (at.directory / "secret").write_text(SENTINEL)
    written = SENTINEL if through in ("file", "variable") else through
    main = f"[[models]]\nname = 'm'\nvendor = 'mock'\napi_key = '{written}'\n[plugins.v]\n[plugins.d]\nnumber = 'x'\n"
    environ = {"SECRET": SENTINEL}
    if through == "variable":
        environ |= {"GATEHOOK_PLUGINS__V__API_KEY": SENTINEL, "GATEHOOK_PLUGINS__D__STRANGE": SENTINEL}
        environ |= {"GATEHOOK_PLUGINS__D__VAULT__TOKN": SENTINEL}
    else:
        main += f"strange = '{written}'\nvault = {{ token = '{written}', tokn = '{SENTINEL}' }}\n"
        main = main.replace("[plugins.v]", f"[plugins.v]\napi_key = '{written}'")
    settings = at.write(main).load(**environ)
    section = settings.plugin_section("v", VendorSettings)
    assert section.api_key.get_secret_value() == settings.targets[0].secret() == SENTINEL
    with pytest.raises(StartupError) as caught:
        settings.plugin_section("d", DeepSettings)
    assert "settings.toml: [plugins.d] number: " in str(caught.value)
    assert "strange: what a strange secret: [redacted]" in str(caught.value)
    shown = [repr(settings), str(settings), repr(section), repr(settings.targets), repr(settings.models)]
    shown += [
        section.model_dump_json(),
        str(caught.value),
        repr(caught.value),
        *traceback.format_exception(caught.value),
    ]
    assert caught.value.__context__ is None
    assert not [text for text in shown if SENTINEL in text]


# --- schema ---------------------------------------------------------------------------------------------------------

PLUGINS: dict[str, type[Section]] = {
    "rate_limit": RateLimitSettings, "policy": PolicySettings, "vendor": VendorSettings, "deep": DeepSettings,
}  # fmt: skip


def test_the_schema_takes_what_loads() -> None:
    schema = json_schema(PLUGINS)
    jsonschema.Draft202012Validator.check_schema(schema)
    whole: dict[str, Any] = {
        "server": {"port": 1, "max_body": "32MB"},
        "egress": {"max_fetch": 5},
        "failover": {"retries": 1},
        "models": [{"name": "a", "vendor": "b", "api_key": "env:X", "limits": {"max_tokens": 5}, "options": {"x": 1}}],
        "plugins": {"rate_limit": {"burst": 1, "enabled": False}, "vendor": {"api_key": "env:X"},
                    "policy": {"rules": [{"tool": "x"}]}, "deep": {"vault": {"token": "file:some/where"}}},
    }  # fmt: skip
    jsonschema.validate(whole, schema)
    jsonschema.validate({}, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"servre": {}},
        {"server": {"prot": 1}},
        {"server": {"port": 70000}},
        {"server": {"max_body": "much"}},
        {"server": {"max_body": 0}},
        {"server": {"enabled": True}},
        {"models": {}},
        {"models": [{"name": "a"}]},
        {"models": [{"name": "a", "vendor": "b", "api_kee": "c"}]},
        {"plugins": {"unknown": {}}},
        {"plugins": {"rate_limit": {"brust": 1}}},
        {"plugins": {"vendor": {}}},
        {"plugins": {"policy": {"rules": [{"tool": "x", "verdct": "deny"}]}}},
    ],
)
def test_the_schema_refuses_what_does_not_load(wrong: dict[str, Any]) -> None:
    assert list(jsonschema.Draft202012Validator(json_schema(PLUGINS)).iter_errors(wrong))


def test_secrets_are_plain_strings_to_the_schema() -> None:
    api_key = json_schema(PLUGINS)["$defs"]["VendorSettings"]["properties"]["api_key"]
    assert api_key == {"title": "Api Key", "type": "string"}


def test_secrets_among_a_model_s_options_are_looked_up_and_hidden(at: Files) -> None:
    options = "options = { headers = { api-key = 'env:AZURE_KEY', plain = 'x' }, list = ['env:AZURE_KEY'] }"
    [target] = at.write(MODEL + options).load(AZURE_KEY="sk-sentinel-4711").targets
    assert target.options == {"headers": {"api-key": "sk-sentinel-4711", "plain": "x"}, "list": ["sk-sentinel-4711"]}
    assert target.secrets() == ("", "sk-sentinel-4711", "sk-sentinel-4711")
    assert "sentinel" not in repr(target)


def test_a_secret_among_the_options_that_is_not_there_switches_the_deployment_off(at: Files) -> None:
    [target] = at.write(MODEL + "options = { headers = { api-key = 'env:AZURE_KEY' } }").load().targets
    assert target.unavailable == "a value in its options refers to $AZURE_KEY, which is not set"
