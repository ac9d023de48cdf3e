"""What all of these tests need."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """No garbage collection: one that ends a greenlet in the middle of `ast.parse` breaks it (CPython 3.11)."""
    gc.disable()
    yield
    gc.enable()
