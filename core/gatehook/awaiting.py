"""Methods that may wait, or give their result at once."""

from collections.abc import Awaitable
from typing import Any, TypeVar, overload

__all__ = ["awaited"]

T = TypeVar("T")


@overload
async def awaited(result: Awaitable[T]) -> T: ...
@overload
async def awaited(result: Awaitable[T] | T) -> T: ...
async def awaited(result: Any) -> Any:
    """The result of a method, waited for if need be."""
    return await result if isinstance(result, Awaitable) else result
