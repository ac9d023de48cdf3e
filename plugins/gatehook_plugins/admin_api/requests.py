"""What requests may hold: the types that bodies and queries are checked against, each field declared once.

In changes, a field that is not there stays as it is, and null takes a limit away.
"""

from decimal import Decimal
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from gatehook import LONGEST_MODEL_NAME

__all__ = [
    "MAX_ID",
    "PLAIN",
    "AuditQuery",
    "Correction",
    "Fallbacks",
    "KeyChange",
    "KeyPage",
    "Limited",
    "NewKey",
    "NewUser",
    "Page",
    "Rotation",
    "RowsQuery",
    "UsageQuery",
    "UserChange",
]

MAX_ID = LONGEST_MODEL_NAME
"""Characters; no id of anything is longer."""

PLAIN = r"^[^\x00-\x1f\x7f\ud800-\udfff]*$"
"""No control characters, and no lone surrogates, which UTF-8 cannot hold: databases and terminals take neither."""

_YEAR = 366 * 86400
"""Seconds."""

Natural = Annotated[int, Meta(ge=0, le=10**15)]
Whole = Annotated[int, Meta(ge=-(10**15), le=10**15)]
Text = Annotated[str, Meta(max_length=MAX_ID, pattern=PLAIN)]
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID, pattern=PLAIN)]
Ids = Annotated[list[Id], Meta(max_length=1000)]
Reason = Annotated[str, Meta(min_length=1, max_length=1000, pattern=PLAIN)]
Date = Annotated[str, Meta(max_length=40)]
"""ISO 8601; see `gatehook_plugins.admin_api.values.moment`."""
EpochSeconds = Annotated[float, Meta(ge=0, le=253402300799)]
Limit = Annotated[int, Meta(ge=1, le=500)]

Cap = Natural | UnsetType | None
Dollars = Decimal | UnsetType | None


class Limited(Struct, forbid_unknown_fields=True, kw_only=True):
    """What users and keys have alike."""

    name: Text | UnsetType = UNSET
    admin: bool | UnsetType = UNSET
    models: Ids | UnsetType | None = UNSET
    rpm_limit: Cap = UNSET
    tpm_limit: Cap = UNSET
    concurrent_limit: Cap = UNSET


class UserChange(Limited):
    """What can be changed of a user."""

    disabled: bool | UnsetType = UNSET
    token_quota: Cap = UNSET
    token_quota_per_day: Cap = UNSET
    token_quota_per_month: Cap = UNSET
    budget: Dollars = UNSET
    budget_per_day: Dollars = UNSET
    budget_per_month: Dollars = UNSET


class NewUser(UserChange, kw_only=True):
    """A user, new or (where that is allowed) to be changed."""

    user_id: Id


class NewKey(Limited):
    """A key to be made. `expires_in` is in seconds, `expires_at` in epoch seconds or a date."""

    expires_in: Annotated[int, Meta(ge=1, le=100 * _YEAR)] | UnsetType | None = UNSET
    expires_at: EpochSeconds | Date | UnsetType | None = UNSET


class KeyChange(NewKey):
    """What can be changed of a key."""

    disabled: bool | UnsetType = UNSET


class Rotation(Struct, forbid_unknown_fields=True):
    """How long the old key stays good beside the new one."""

    overlap_seconds: Annotated[float, Meta(ge=0, le=_YEAR)] = 0


class Fallbacks(Struct, forbid_unknown_fields=True):
    """Public names of models, in the order in which they are tried; perhaps of a certain revision of the model."""

    fallbacks: Ids
    revision: Natural | None = None


class Correction(Struct, forbid_unknown_fields=True, kw_only=True):
    """Usage to be added or, if negative, taken back."""

    user_id: Id
    model: Text = ""
    tokens: Whole = 0
    cost: Decimal = Decimal(0)
    reason: Reason


class Page(Struct, forbid_unknown_fields=True):
    """Which part of a list: so many, after this id."""

    after: Text = ""
    limit: Limit = 100


class KeyPage(Page):
    """Keys, perhaps of one user only."""

    user_id: Id | None = None


class UsageQuery(Struct, forbid_unknown_fields=True):
    """Whose usage of what, and when."""

    user_id: Id | None = None
    model: Id | None = None
    start_date: Date | None = None
    end_date: Date | None = None
    by: Literal["model", "total"] = "model"


class RowsQuery(Struct, forbid_unknown_fields=True):
    """Single requests, those that ended before a moment."""

    user_id: Id | None = None
    model: Id | None = None
    before: Date | None = None
    limit: Limit = 100


class AuditQuery(Struct, forbid_unknown_fields=True):
    """Changes before the one with this id."""

    before: Annotated[int, Meta(ge=1, le=2**62)] | None = None
    limit: Limit = 100
