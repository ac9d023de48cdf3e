"""What a model's options add to every request: a proxy's own key may be a header, or a value of the query.

So these are kept encrypted, and not shown; but for versions in the query, which the kernel takes for no secrets either.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gatehook import InvalidRequest
from gatehook_plugins.database.vault import Vault

__all__ = ["REFERENCES", "hidden", "sealed", "unsealed"]

REFERENCES: Final = ("env:", "file:")
"""What a text begins with that only tells where a secret is."""
_SENT: Final = ("headers", "query")
_SEALED: Final = "sealed:"
_NOT_SHOWN: Final = "…"


def sealed(options: Any, vault: Vault, model_id: str) -> Any:
    """The options as they are kept.

    Raises:
        InvalidRequest: a value cannot be sent, or is the mark of those that are not shown.
    """

    def seal(place: str, text: str) -> str:
        if not text.isprintable():
            raise _wrong(place, "must be a text of one line")
        if text == _NOT_SHOWN:
            raise _wrong(place, f"{text} stands for what is not shown; give the value itself")
        return _SEALED + vault.seal(text, model_id)

    return _changed(options, seal)


def unsealed(options: Any, vault: Vault, model_id: str) -> Any:
    """The options as they were given.

    Raises:
        ValueError: they were sealed with another secret or for another model.
    """

    def unseal(place: str, text: str) -> str:
        return vault.unseal(text.removeprefix(_SEALED), model_id) if text.startswith(_SEALED) else text

    return _changed(options, unseal)


def hidden(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's table as it may be shown."""
    if "options" not in table:
        return table
    return {**table, "options": _changed(table["options"], lambda place, text: _NOT_SHOWN)}


def _changed(options: Any, change: Callable[[str, str], str]) -> Any:
    """The options with other texts for what may be secret. What has a wrong form is left to others to refuse."""
    if not isinstance(options, dict):
        return options
    tables = {table: options[table] for table in _SENT if isinstance(options.get(table), dict)}
    return options | {
        table: {
            name: change(f"{table}.{name[:80]!r}", value) if _may_be_secret(table, name, value) else value
            for name, value in values.items()
        }
        for table, values in tables.items()
    }


def _may_be_secret(table: str, name: str, value: Any) -> bool:
    """Whether a text does more than to tell where a secret is, or which version is meant (Azure's `api-version`)."""
    is_version = table == "query" and "version" in name.lower()
    return isinstance(value, str) and not value.startswith(REFERENCES) and not is_version


def _wrong(place: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"options.{place}: {what}", param="options", code="invalid_value")
