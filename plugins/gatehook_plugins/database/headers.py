"""The headers among a model's options: a proxy's own key may be one, so they are kept encrypted, and not shown."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gatehook import InvalidRequest
from gatehook_plugins.database.vault import Vault

__all__ = ["REFERENCES", "hidden", "sealed", "unsealed"]

REFERENCES: Final = ("env:", "file:")
"""What a text begins with that only tells where a secret is."""
_SEALED: Final = "sealed:"
_NOT_SHOWN: Final = "…"


def sealed(options: Any, vault: Vault, model_id: str) -> Any:
    """The options as they are kept.

    Raises:
        InvalidRequest: a value cannot be sent, or is the mark of those that are not shown.
    """

    def seal(name: str, text: str) -> str:
        if not text.isprintable():
            raise _wrong(name, "must be a text of one line")
        if text == _NOT_SHOWN:
            raise _wrong(name, f"{text} stands for what is not shown; give the value itself")
        return _SEALED + vault.seal(text, model_id)

    return _changed(options, seal)


def unsealed(options: Any, vault: Vault, model_id: str) -> Any:
    """The options as they were given.

    Raises:
        ValueError: they were sealed with another secret or for another model.
    """

    def unseal(name: str, text: str) -> str:
        return vault.unseal(text.removeprefix(_SEALED), model_id) if text.startswith(_SEALED) else text

    return _changed(options, unseal)


def hidden(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's table as it may be shown."""
    if "options" not in table:
        return table
    return {**table, "options": _changed(table["options"], lambda name, text: _NOT_SHOWN)}


def _changed(options: Any, change: Callable[[str, str], str]) -> Any:
    """The options with other texts for headers. References stay; what has a wrong form is left to others to refuse."""
    headers = options.get("headers") if isinstance(options, dict) else None
    if not isinstance(headers, dict):
        return options
    texts = {name: text for name, text in headers.items() if isinstance(text, str) and not text.startswith(REFERENCES)}
    return {**options, "headers": {**headers, **{name: change(name, text) for name, text in texts.items()}}}


def _wrong(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"options.headers.{name[:80]!r}: {what}", param="options", code="invalid_value")
