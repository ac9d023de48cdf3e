"""Which broken plugins the gateway may go on without: none that guards it, and none of which nobody knows.

`on_error = "skip"` asks for it. What a plugin does is told by the hooks of its class; where not even the class can be
had, the operator has to say `guards = false`, and is held to it as soon as it can be.
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
"""Who lets in, limits, judges and hides; and who offers services, for one of those may do less without them."""


def why_not_skipped(cls: Any, *, guards: bool | None) -> str:
    """Why the gateway must not serve without a broken plugin, as the end of a message; "" if it may.

    Args:
        cls: what its entry point names; None if that cannot be loaded.
        guards: the operator's word on whether it guards the gateway, None if there is none.
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
    """A fault if the operator says that a plugin guards nothing, and it does; "" if not."""
    found = _guarding(cls)
    return f"guards = false, but it has {found}: take that line out" if guards is False and found else ""


def _guarding(cls: Any) -> str:
    """The first hook of a guard; marked as one or not, for the decorator may be what was forgotten."""
    return next((hook for hook in _GUARDS if inspect.isclass(cls) and hasattr(cls, hook)), "")


def _is_plain(cls: Any) -> bool:
    """Whether all its hooks are known: one that is misspelt may have been meant for a guard."""
    marker = f"{hookspecs.PROJECT}_impl"
    return inspect.isclass(cls) and all(
        hasattr(hookspecs, name) for name in dir(cls) if hasattr(inspect.getattr_static(cls, name), marker)
    )
