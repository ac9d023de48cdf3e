"""Settings: settings files found and stacked, and the traps of the environment and of merging."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, PositiveInt, SecretStr, ValidationError

from gatehook.config.settings import (
    EgressSettings,
    FailoverSettings,
    Section,
    ServerSettings,
    load,
)
from gatehook.errors import StartupError


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


# --- finding and stacking -------------------------------------------------------------------------------------------


def test_an_empty_file_gives_every_default(at: Any) -> None:
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
        "max_fetch": 20 * 1024 * 1024, "ca_certificates": SecretStr(""),
    }  # fmt: skip
    assert FailoverSettings().model_dump() == {
        "first_token_timeout": 30.0, "stall_timeout": 30.0, "retries": 2, "retry_after_cap": 10.0,
        "max_attempts": 8, "budget": 120.0,
    }  # fmt: skip


def test_each_layer_beats_the_ones_before_it(at: Any) -> None:
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


def test_a_file_of_another_name_has_its_own_local_file(at: Any) -> None:
    at.path = at.directory / "my.toml"
    at.path.write_text("[server]\nport = 1")
    (at.directory / "my.local.toml").write_text("[server]\nport = 2")
    (at.directory / "settings.local.toml").write_text("[server]\nport = 3")
    assert at.load().server.port == 2


def test_where_the_file_is_looked_for(at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_that_is_named_must_exist(at: Any) -> None:
    assert at.faults() == [f"{at.path}: cannot be read: No such file or directory"]


def test_the_process_environment_is_the_default(at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("GATEHOOK_SERVER__PORT", "77")
        assert load(at.write().path).server.port == 77
        assert load(at.path, {}).server.port == 8080


def test_two_loads_know_nothing_of_each_other(at: Any, tmp_path: Path) -> None:
    other = type(at)(tmp_path / "other")
    other.directory.mkdir()
    at.write("[plugins.a]\n[plugins.v]\napi_key = 'env:KEY'")
    other.write("[plugins.b]\n[plugins.v]\napi_key = 'env:KEY'")
    first, second = at.load(KEY="one", GATEHOOK_SERVER__PORT="1"), other.load(KEY="two")
    assert (first.plugin_names(), second.plugin_names()) == (["a", "v"], ["b", "v"])
    assert (first.server.port, second.server.port) == (1, 8080)
    keys = [each.plugin_section("v", VendorSettings).api_key.get_secret_value() for each in (first, second)]
    assert keys == ["one", "two"]


def test_dynaconfs_own_variables_change_nothing(at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    at.write("[plugins.x]\nburst = 1\n[plugins.y]", local="[plugins.x]\nrequests_per_minute = 2")
    with monkeypatch.context() as patch:
        for name in ("MERGE_ENABLED", "AUTO_CAST", "ENVIRONMENTS", "CORE_LOADERS", "LOADERS", "DOTTED_LOOKUP"):
            patch.setenv(f"{name}_FOR_DYNACONF", "false")
        patch.setenv("SETTINGS_FILE_FOR_DYNACONF", "elsewhere.toml")
        settings = at.load()
    assert settings.plugin_names() == ["x", "y"]
    assert settings.plugin_section("x", RateLimitSettings) == RateLimitSettings(burst=1, requests_per_minute=2)


def test_a_byte_order_mark_is_no_obstacle(at: Any) -> None:
    at.path.write_text("[server]\nport = 1", encoding="utf-8-sig")
    assert at.load().server.port == 1


def test_values_are_frozen(at: Any) -> None:
    settings = at.write().load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1
    with pytest.raises(AttributeError):
        settings.server = ServerSettings()


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
def test_a_text_from_a_variable_stays_the_text_it_is(at: Any, value: str) -> None:
    section = at.write("[plugins.v]").load(GATEHOOK_PLUGINS__V__API_KEY=value).plugin_section("v", VendorSettings)
    assert section.api_key.get_secret_value() == value


@pytest.mark.parametrize("value", ["@format {env[HOME]}", "@jinja {{ 1 }}", "@int 5", "@none ", "@merge a"])
def test_a_text_from_a_file_stays_the_text_it_is(at: Any, value: str) -> None:
    section = at.write(f"[plugins.v]\napi_key = '{value}'").load().plugin_section("v", VendorSettings)
    assert section.api_key.get_secret_value() == value


def test_tables_are_merged_and_lists_joined_once(at: Any) -> None:
    at.write(
        "[plugins.k]\nmaybe = ['a', 'b']\ntable = { a = 1 }", local="[plugins.k]\nmaybe = ['c']\ntable = { b = 2 }"
    )
    section = at.load().plugin_section("k", KeysSettings)
    assert (section.maybe, section.table) == (["a", "b", "c"], {"a": 1, "b": 2})


def test_dynaconfs_own_orders_are_refused(at: Any) -> None:
    at.write("[server]\ndynaconf_merge = false", local="[plugins.k]\nmaybe = ['dynaconf_merge_unique']")
    refused = "dynaconf_merge has no place here: tables and lists always merge"
    assert at.faults() == [f"settings.toml: [server]: {refused}", f"settings.local.toml: [plugins]: {refused}"]


def test_a_list_from_the_environment_replaces(at: Any) -> None:
    at.write("[plugins.k]\nmaybe = ['a', 'b']", local="[plugins.k]\nmaybe = ['c']")
    assert at.load(GATEHOOK_PLUGINS__K__MAYBE='["z"]').plugin_section("k", KeysSettings).maybe == ["z"]


def test_json_is_decoded_only_where_the_type_calls_for_it(at: Any) -> None:
    settings = at.write("[plugins.k]").load(
        GATEHOOK_PLUGINS__K__TABLE='{"a": 1}', GATEHOOK_PLUGINS__K__EITHER='["a"]', GATEHOOK_PLUGINS__K__ORDER="3"
    )
    section = settings.plugin_section("k", KeysSettings)
    assert (section.table, section.either, section.order) == ({"a": 1}, '["a"]', 3)


def test_a_variable_reaches_into_tables(at: Any) -> None:
    at.write("[plugins.k.table]\nFirst = 1")
    section = at.load(GATEHOOK_PLUGINS__K__TABLE__FIRST="5", GATEHOOK_PLUGINS__K__TABLE__NEXT="6")
    assert section.plugin_section("k", KeysSettings).table == {"First": 5, "next": 6}


def test_a_table_and_a_key_in_it_cannot_both_be_variables(at: Any) -> None:
    faults = at.write().faults(GATEHOOK_PLUGINS__K__TABLE='{"a": 1}', GATEHOOK_PLUGINS__K__TABLE__B="2")
    assert faults == [
        "$GATEHOOK_PLUGINS__K__TABLE__B: $GATEHOOK_PLUGINS__K__TABLE sets the whole table already; use one or the other"
    ]


def test_what_kubernetes_says_of_a_service_called_gatehook_is_no_setting(at: Any) -> None:
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


def test_a_variable_that_settings_refer_to_is_no_setting(at: Any) -> None:
    at.write("[plugins.k]\nkeys = ['env:GATEHOOK_ADMIN_KEY']")
    settings = at.load(GATEHOOK_ADMIN_KEY="hello")
    assert settings.plugin_section("k", KeysSettings).keys[0].get_secret_value() == "hello"
    settings = at.write("").load(GATEHOOK_ADMIN_KEY="hello", GATEHOOK_PLUGINS__K__KEYS='["env:GATEHOOK_ADMIN_KEY"]')
    assert settings.plugin_section("k", KeysSettings).keys[0].get_secret_value() == "hello"
