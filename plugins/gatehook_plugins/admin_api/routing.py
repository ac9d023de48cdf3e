"""What the rooms of /admin hand to the gateway."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web

__all__ = ["MODEL_ID", "USER_ID", "Handled"]

USER_ID: Final = "{user_id:[^/]+}"
MODEL_ID: Final = "{model_id:.+}"
"""Places in paths. A user's id has no slash, but may have braces, which aiohttp's own pattern leaves out; models may be
called "meta/llama"."""

Handled: TypeAlias = tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]
"""A method, a path, and who answers it."""
