"""What the parts of /admin have in common: ids in their paths, and how each tells the routes that it answers."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web

__all__ = ["MODEL_ID", "USER_ID", "Handled"]

USER_ID: Final = "{user_id:[^/]+}"
MODEL_ID: Final = "{model_id:.+}"
"""Ids in paths. A user's has no slash, but may have braces, which aiohttp's default pattern does not match; a model may
be called "meta/llama"."""

Handled: TypeAlias = tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]
"""A method, a path, and the handler that answers it."""
