"""Settings: the JSON Schema takes what loads, and refuses what does not."""

from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, PositiveInt, SecretStr, field_validator

from gatehook.config.settings import (
    Section,
    json_schema,
)


class RateLimitSettings(Section):
    burst: PositiveInt = 10
    requests_per_minute: PositiveInt = 60


class VendorSettings(Section):
    api_key: SecretStr


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
