"""Settings: secrets are looked up, and shown nowhere."""

import traceback
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator

from gatehook.config.settings import (
    Section,
)
from gatehook.errors import StartupError

SENTINEL = "s3ntinel-Zq81-never-shown"


class VendorSettings(Section):
    api_key: SecretStr


class KeysSettings(Section):
    keys: list[SecretStr] = Field(default=[])
    table: dict[str, int] = Field(default={})
    maybe: list[str] | None = None
    either: str | list[str] = ""


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


def test_secrets_are_found_wherever_they_are(at: Any) -> None:
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


def test_secrets_that_are_not_there(at: Any) -> None:
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


def test_a_reference_is_judged_by_what_it_leads_to(at: Any) -> None:
    at.write("[plugins.d]\nvault = { token = 'env:SHORT_ONE' }")
    assert at.section_faults("d", DeepSettings, SHORT_ONE="short") == [
        "settings.toml: [plugins.d] vault.token: value should have at least 8 items after validation, not 5"
    ]


def test_texts_that_are_no_secrets_are_not_looked_up(at: Any) -> None:
    settings = at.write("[plugins.k]\neither = 'env:HOME'\n[[models]]\nname = 'env:X'\nvendor = 'v'").load()
    assert settings.plugin_section("k", KeysSettings).either == "env:HOME"
    assert settings.targets[0].name == "env:X"


@pytest.mark.parametrize("through", ["file", "env:SECRET", "file:secret", "variable"])
def test_a_secret_is_never_shown(at: Any, through: str) -> None:
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
