"""What each plugin costs, measured at the methods of its objects, if a plugin offers the service `METER`.

The objects are wrapped once, at start-up. A wrapper has exactly the attributes of its object, as the protocols that an
object keeps are told by its methods. Without a meter nothing is wrapped, and nothing is slower.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any, Final, Protocol

from msgspec.structs import replace

from gatehook.errors import GatewayError
from gatehook.failures import is_failure
from gatehook.protocols import Endpoint, Observer, Route
from gatehook.services import ServiceKey

__all__ = ["METER", "Meter", "Steps", "metered"]

_SURFACE: Final = ("parse", "answer", "event", "end", "error", "error_event", "status")
_TIMED: Final[Mapping[str, tuple[str, ...]]] = {
    "register_authenticators": ("authenticate",),
    "register_limiters": ("admit", "admit_attempt", "admit_change", "admit_round", "standing"),
    "register_routers": ("route",),
    "register_vendors": ("complete", "stream", "probe"),
    "register_caches": ("get", "put"),
    "register_tool_policies": ("offer", "judge"),
    "register_tools": ("run",),
    "register_transforms": ("transform",),
}
"""The methods that are measured of the objects of each hook."""

_now = time.perf_counter


def _same(given: Any) -> Any:
    return given


class Meter(Protocol):
    """Takes the measurements. Called on the event loop, once for each call of a method: it must return at once."""

    def add(self, plugin: str, method: str, seconds: float, busy: float, *, failed: bool) -> None:
        """Take the measurement of one call of a method.

        Args:
            plugin: the plugin whose object it was.
            method: the method's name.
            seconds: from its beginning to its end.
            busy: seconds of these in which it kept the event loop busy.
            failed: whether it raised something else than a `GatewayError`.
        """
        ...


METER: ServiceKey[Meter] = ServiceKey("meter", provider="metrics")


def metered(meter: Meter, plugin: str, hook: str, result: Any) -> Any:
    """One result of a hook, with its methods measured."""
    if hook == "register_observers":
        return _Wrapping(meter, plugin, result).observer()
    if isinstance(result, Route):
        timed = _Timed(meter, plugin, "handler").waiting(result.handler)
        timed.__doc__ = inspect.getdoc(result.handler)  # /openapi.json has it
        return replace(result, handler=timed)
    if isinstance(result, Endpoint):
        return replace(result, surface=_Wrapping(meter, plugin, result.surface).like(_SURFACE))
    return _Wrapping(meter, plugin, result).like(_TIMED[hook]) if hook in _TIMED else result


class _Wrapping:
    """Makes a wrapper of an object."""

    def __init__(self, meter: Meter, plugin: str, inner: Any) -> None:
        self._meter, self._plugin, self._inner = meter, plugin, inner

    def like(self, methods: tuple[str, ...]) -> Any:
        """A wrapper with every public attribute of the inner object, of which these methods are measured."""
        own: dict[str, Any] = {}
        for name in dir(self._inner):
            if name in methods:
                own[name] = staticmethod(self._method(name))
            elif not name.startswith("_"):
                own[name] = property(self._reading(name))
        kind = type(self._inner)
        return type(kind.__name__, (), {"__module__": kind.__module__, "__qualname__": kind.__qualname__, **own})()

    def observer(self) -> Observer:
        """A wrapper that overrides exactly the methods that the inner observer does."""
        kind, base = type(self._inner), vars(Observer)
        moments = [name for name in base if not name.startswith("_") and getattr(kind, name) is not base[name]]
        own = {name: staticmethod(self._method(name)) for name in moments}
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        watching: Observer = type(kind.__name__, (Observer,), {**names, **own})()
        return watching

    def _reading(self, name: str) -> Callable[[object], Any]:
        return lambda _: getattr(self._inner, name)

    def _method(self, name: str) -> Callable[..., Any]:
        function, timed = getattr(self._inner, name), _Timed(self._meter, self._plugin, name)
        if name == "stream":
            return timed.streaming(function)
        if name in ("admit", "admit_attempt"):
            return timed.reserving(function)
        if name in ("authenticate", "route"):
            return timed.either(function)
        return timed.waiting(function) if asyncio.iscoroutinefunction(function) else timed.returning(function)


class _Timed:
    """Measures one method."""

    def __init__(self, meter: Meter, plugin: str, method: str) -> None:
        self._meter, self._plugin, self._method = meter, plugin, method

    def ended(self, begun: float, busy: float | None, error: BaseException | None) -> None:
        """Tell the meter of a call; `busy` None: it was busy all the time."""
        seconds = _now() - begun
        failed = error is not None and is_failure(error) and not isinstance(error, GatewayError | StopAsyncIteration)
        self._meter.add(self._plugin, self._method, seconds, seconds if busy is None else busy, failed=failed)

    def returning(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A method that waits for nothing."""

        def measured(*arguments: Any) -> Any:
            begun, failure = _now(), None
            try:
                return function(*arguments)
            except BaseException as error:
                failure = error
                raise
            finally:
                self.ended(begun, None, failure)

        return measured

    def waiting(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """A method that may wait."""

        async def measured(*arguments: Any) -> Any:
            return await Steps(self, function(*arguments))

        return measured

    def either(self, function: Callable[..., Any], made: Callable[[Any], Any] = _same) -> Callable[..., Any]:
        """A method that may be `async def` or plain; `made` turns its result into another."""

        async def waited(given: Awaitable[Any]) -> Any:
            return made(await Steps(self, given))

        def measured(*arguments: Any) -> Any:
            begun = _now()
            try:
                given = function(*arguments)
            except BaseException as error:
                self.ended(begun, None, error)
                raise
            if isinstance(given, Awaitable):
                return waited(given)
            self.ended(begun, None, None)
            return made(given)

        return measured

    def reserving(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A limiter's method; the settling of its permits is measured, too."""
        settling = _Timed(self._meter, self._plugin, "settle")
        return self.either(function, lambda permit: _Permit(permit, settling) if hasattr(permit, "settle") else permit)

    def streaming(self, function: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
        """A vendor's stream: one call, from its beginning until it is closed."""

        async def measured(*arguments: Any) -> AsyncIterator[Any]:
            begun, busy, failure = _now(), 0.0, None
            source: Any = function(*arguments)
            try:
                while True:
                    steps = Steps(None, source.__anext__())
                    try:
                        batch = await steps
                    except StopAsyncIteration:
                        return
                    finally:
                        busy += steps.busy
                    yield batch
            except BaseException as error:
                failure = error
                raise
            finally:
                try:
                    await source.aclose()
                finally:
                    self.ended(begun, busy, failure)

        return measured


class _Permit:
    """A permit whose settling is measured."""

    __slots__ = ("settle",)

    def __init__(self, permit: Any, timed: _Timed) -> None:
        self.settle = timed.either(permit.settle)


class Steps:
    """Awaits something, and adds up the time between its waits, in which it keeps the event loop busy."""

    __slots__ = ("_timed", "busy", "inner")

    def __init__(self, timed: _Timed | None, inner: Awaitable[Any]) -> None:
        self._timed, self.inner = timed, inner
        self.busy = 0.0

    def __await__(self) -> Generator[Any, Any, Any]:
        begun, failure = _now(), None
        try:
            result = yield from self._run(self.inner.__await__())
        except BaseException as error:
            failure = error
            raise
        finally:
            if self._timed is not None:
                self._timed.ended(begun, self.busy, failure)
        return result

    def _run(self, inner: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step: Callable[..., Any] = inner.send
        given: Any = None
        while True:
            begun = _now()
            try:
                waits_for = step(given)
            except StopIteration as end:
                return end.value
            finally:
                self.busy += _now() - begun
            try:
                step, given = inner.send, (yield waits_for)
            except BaseException as error:  # noqa: BLE001  # whatever is thrown in, above all a cancellation, goes on
                step, given = inner.throw, error
