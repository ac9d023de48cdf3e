"""Parts of a request, read as types."""

from typing import TypeVar

from gatehook import InvalidRequest, fitted

__all__ = ["fitted_at"]

T = TypeVar("T")


def fitted_at(value: object, kind: type[T], path: str) -> T:
    """A decoded value that stands at `path` of the request, as a type.

    Raises:
        InvalidRequest: naming the field by its path in the request.
    """
    try:
        return fitted(value, kind)
    except InvalidRequest as error:
        if error.param is None:
            raise InvalidRequest(f"{path}: {error.message.removeprefix('the body: ')}", param=path) from None
        raise InvalidRequest(f"{path}.{error.message}", param=f"{path}.{error.param}") from None
