"""From claims that can be believed to who is calling and what they may do."""

import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, Final

from msgspec import Struct

from gatehook import Principal
from gatehook_plugins.auth_jwt.tokens import refused

__all__ = ["ClaimNames", "found"]

_MAX_ID: Final = 128
_ABSENT: Final = object()


def found(claims: Mapping[str, Any], path: str, absent: Any = None) -> Any:
    """The claim at `path`, `absent` if there is none: the claim of exactly this name, else the steps between the dots.

    The exact name first, as names may be addresses ("https://example.com/roles").
    """
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return absent
        value = value[step]
    return value


class ClaimNames(Struct, frozen=True):
    """Which claims tell what; "" for none. Names may be paths, see `found`."""

    user: str = "sub"
    name: str = "name"
    admin: str = "role"
    admin_values: Collection[str] = frozenset({"admin"})
    models: str = "models"

    def principal(self, claims: Mapping[str, Any]) -> Principal:
        """Who the claims speak of.

        Raises:
            AuthenticationFailed: they name nobody, or models in a way that cannot be understood.
        """
        user = found(claims, self.user)
        if user is None:
            raise refused(f"lacks the claim {self.user}")
        if not _is_label(user) or not user.isprintable():  # of others, the ledger might make one of two
            raise refused(f"names no user: the claim {self.user} must be a text of 1 to {_MAX_ID} characters, "
                          "all of which can be shown, no space at its ends")  # fmt: skip
        name = found(claims, self.name) if self.name else ""
        return Principal(
            id=user,
            name=name if _is_label(name) else "",
            admin=self._is_admin(claims),
            models=self._models(claims),
            key_id="jwt",
        )

    def _is_admin(self, claims: Mapping[str, Any]) -> bool:
        """Whether the claim is, or lists, one of the values. Anything odd is no admin."""
        said = found(claims, self.admin) if self.admin else None
        values = said if isinstance(said, list) else [said]
        return any(isinstance(value, str) and value in self.admin_values for value in values)

    def _models(self, claims: Mapping[str, Any]) -> frozenset[str] | None:
        """The models of a list, or of a text with spaces; None, for all, if there is no such claim, not if null."""
        said = found(claims, self.models, _ABSENT) if self.models else _ABSENT
        if said is _ABSENT:
            return None
        names = said.split() if isinstance(said, str) else said
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise refused(f"names models in a way that is not understood: the claim {self.models} must be a list of "
                          "texts, or one text with spaces between the names")  # fmt: skip
        return frozenset(names)


def _is_label(value: object) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ID or value != value.strip():
        return False
    return not any(unicodedata.category(letter).startswith("C") for letter in value)
