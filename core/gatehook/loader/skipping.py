"""Which broken plugins may be skipped (`on_error = "skip"`): none that guards the gateway, or may do so.

Whether a plugin guards it is told by the hooks of its class. If the class cannot be loaded, the operator has to say
`guards = false`; once it can be, that has to be true.
"""

import inspect
from typing import Any

from gatehook import hookspecs

__all__ = ["contradiction", "why_not_skipped"]

_GUARDS = (
    "register_authenticators",
    "register_limiters",
    "register_tool_policies",
    "register_transforms",
    "register_services",
)
"""Hooks of plugins that let in, limit, judge or hide; and that offer services, without which such a one may do less."""


def why_not_skipped(cls: Any, *, guards: bool | None) -> str:
    """Why a broken plugin must not be skipped, as the end of a message; "" if it may be.

    Args:
        cls: what its entry point names; None if that cannot be loaded.
        guards: whether the operator says that it guards the gateway; None if the settings do not say.
    """
    if guards:
        return "it cannot be skipped: guards = true"
    if found := _guarding(cls):
        return f"it cannot be skipped: it has {found}, and the gateway does not serve without that"
    if guards is None and not _is_plain(cls):
        return (
            "it cannot be skipped, as nobody can tell what it does: if it brings no authenticators, limiters, tool "
            "policies, transforms or services, say guards = false beside on_error"
        )
    return ""


def contradiction(cls: Any, *, guards: bool | None) -> str:
    """A fault if the operator says that a plugin guards nothing, but it does; otherwise ""."""
    found = _guarding(cls)
    return f"guards = false, but it has {found}: take that line out" if guards is False and found else ""


def _guarding(cls: Any) -> str:
    """The first guarding hook of a class, even without @hookimpl, which may have been forgotten; "" if none."""
    return next((hook for hook in _GUARDS if inspect.isclass(cls) and hasattr(cls, hook)), "")


def _is_plain(cls: Any) -> bool:
    """Whether a class has no unknown hooks: a misspelt one may be meant to guard."""
    marker = f"{hookspecs.PROJECT}_impl"
    return inspect.isclass(cls) and all(
        hasattr(hookspecs, name) for name in dir(cls) if hasattr(inspect.getattr_static(cls, name), marker)
    )
