"""SQLAlchemy's async engines without its ORM, which nothing here uses: 6 MB, and a third of the time to load the rest.

Whoever imports `sqlalchemy.ext.asyncio` gets all of it, and the same classes.
"""

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec

__all__ = ["AsyncConnection", "AsyncEngine", "create_async_engine"]


@contextlib.contextmanager
def _bare(name: str) -> Iterator[None]:
    """Have modules of the package `name` imported without running its `__init__`; if that has run, nothing changes."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is None:
        yield
        return
    sys.modules[name] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[name]


with _bare("sqlalchemy.ext.asyncio"):  # its `__init__` imports sessions, and they import the ORM
    from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine, create_async_engine
