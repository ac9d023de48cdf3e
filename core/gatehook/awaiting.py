"""Results of methods that may be `async def` or plain."""

from collections.abc import Awaitable
from typing import Any, TypeVar, overload

__all__ = ["awaited"]

T = TypeVar("T")


@overload
async def awaited(result: Awaitable[T]) -> T: ...
@overload
async def awaited(result: Awaitable[T] | T) -> T: ...
async def awaited(result: Any) -> Any:
    """The result itself, awaited if it is an awaitable."""
    return await result if isinstance(result, Awaitable) else result
