"""Gatehook's plugin API: everything a plugin may import, as `gatehook.api` lists it. `__all__` is the promise.

It is imported when the first name is used, so that what does not serve starts fast: `gatehook --help`, and pytest,
which loads `gatehook.pytest_plugin` wherever Gatehook is installed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatehook.api import *  # noqa: F403
    from gatehook.api import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module, util

        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if util.find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        api = import_module(f"{__name__}.api")
        globals().update({promised: getattr(api, promised) for promised in ("__all__", *api.__all__)})
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
