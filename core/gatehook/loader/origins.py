"""Where plugins come from: their distributions, what those ask of Gatehook, and whose code a module is."""

import functools
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, EntryPoint, version
from types import CodeType, FrameType

__all__ = ["OURS", "Owners", "frames", "named", "origin", "place", "remedy", "told", "unmet"]

OURS = "gatehook"
"""The distribution that brings the kernel and the first-party plugins."""


@functools.cache
def own_version() -> str:
    """The version of Gatehook, and so of its plugin API."""
    return version(OURS)


def origin(entry: EntryPoint) -> str:
    """The distribution of an entry point and its version: "gatehook-acme 1.2"."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


@functools.lru_cache(maxsize=64)
def _name(distribution: Distribution) -> str:
    """Its name, cached: Python parses the whole METADATA each time it is asked, which takes long."""
    return distribution.name


def is_foreign(entry: EntryPoint) -> bool:
    """Whether it is known to be somebody else's plugin."""
    return entry.dist is not None and _name(entry.dist) != OURS


def named(name: str, entry: EntryPoint | None) -> str:
    """A plugin as messages name it: with its distribution, if it is somebody else's."""
    return f"plugin {name!r} ({origin(entry)})" if entry is not None and is_foreign(entry) else f"plugin {name!r}"


def remedy(name: str, entry: EntryPoint, error: BaseException) -> str:
    """The end of a message about a plugin that cannot be imported or built: what to do about it."""
    off = f"[plugins.{name}] enabled = false switches it off"
    if entry.dist is None or not is_foreign(entry):
        return f"; {off}"
    pip = f"`pip install --upgrade {entry.dist.name}`"
    missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
    if isinstance(missing, str) and missing.partition(".")[0] == OURS:
        return f"; it is written for another version of Gatehook than {own_version()}: {pip}, or {off}"
    if isinstance(error, ModuleNotFoundError):
        return f"; {pip} brings what it needs, or {off}"
    return f"; {pip} may bring a better version, or {off}"


def told(error: BaseException, entry: EntryPoint) -> str:
    """An exception that came out of a plugin, and where in its own code; for whoever mends that."""
    is_of_file = isinstance(error, OSError) and error.filename is not None  # which its repr does not name
    what = f"{type(error).__name__}: {error}" if is_of_file else repr(error)
    package = entry.value.partition(":")[0].strip().partition(".")[0]
    own = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] == package
    ]
    return f"{what}, at {place(*own[-1])}" if own else what


def unmet(entry: EntryPoint) -> str:
    """The distribution's requirement of another version of Gatehook, as a fault; "" if this one will do.

    pip checks it as well, but only when it installs: it can be overruled, and Gatehook upgraded later.
    """
    if entry.dist is None or not is_foreign(entry):
        return ""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import Version

    # A pre-release counts as its release, too: it is there to be tried.
    mine = {own_version(), Version(own_version()).base_version}
    for line in entry.dist.requires or ():
        try:
            asked = Requirement(line)
        except InvalidRequirement:  # pip complains of it; it cannot be about Gatehook
            continue
        applies = asked.marker is None or asked.marker.evaluate({"extra": ""})
        fits = any(asked.specifier.contains(one, prereleases=True) for one in mine)
        if asked.name.lower() == OURS and applies and not fits:
            return (
                f"is written for gatehook{asked.specifier}, and this is {own_version()}: "
                f"`pip install --upgrade gatehook {entry.dist.name}` gets versions that fit"
            )
    return ""


class Owners:
    """Tells which plugin a module belongs to."""

    def __init__(self, plugins: Mapping[str, EntryPoint]) -> None:
        self._names: dict[str, str] = {}
        for name, entry in plugins.items():
            module = entry.value.partition(":")[0].strip()
            self._names[module] = named(name, entry)
            if is_foreign(entry):  # other modules of its package are its own, too; each of our plugins is a package
                self._names.setdefault(module.partition(".")[0], named(name, entry))

    def of(self, module: str) -> str:
        """The plugin as messages name it; "" if the module belongs to none."""
        while module:
            if module in self._names:
                return self._names[module]
            module = module.rpartition(".")[0]
        return ""

    def first(self, modules: Iterable[str]) -> str:
        """The plugin of the first of these modules that belongs to one; "" if none does."""
        return next(filter(None, map(self.of, modules)), "")


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def place(code: CodeType, line: int | None) -> str:
    """A place in the code, for a message."""
    return f"{code.co_filename}:{line}, in {code.co_qualname}"
