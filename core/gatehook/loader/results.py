"""What hooks return, checked at start-up: a wrong type is a fault there, and not an error of some later request."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from gatehook import protocols
from gatehook.errors import StartupError
from gatehook.parameters import Parameter
from gatehook.services import ServiceKey

__all__ = ["result_faults", "results_of"]

_KINDS: Final[Mapping[str, type]] = {
    "register_authenticators": protocols.Authenticator,
    "register_caches": protocols.Cache,
    "register_commands": protocols.Command,
    "register_limiters": protocols.Limiter,
    "register_observers": protocols.Observer,
    "register_routers": protocols.Router,
    "register_tool_policies": protocols.ToolPolicy,
    "register_transforms": protocols.Transform,
    "register_vendors": protocols.Vendor,
}
"""What each hook returns; the other hooks' results are not of one type."""

_STRUCTURAL: Final = {
    protocols.Authenticator, protocols.Cache, protocols.Limiter, protocols.Router, protocols.Surface,
    protocols.Tool, protocols.ToolPolicy, protocols.ToolSource, protocols.Transform, protocols.Vendor,
}  # fmt: skip
"""The protocols, which need no subclass: what an object lacks can be told."""

_MAY_WAIT: Final = frozenset({"admit", "admit_attempt", "authenticate", "route"})
"""Methods that may be `async def`, or plain."""


def results_of(function: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    """What a hook returns. Unlike pluggy's call, this also passes arguments for which the hook has a default."""
    wanted = inspect.signature(function).parameters
    results = function(**{name: value for name, value in arguments.items() if name in wanted})
    if not isinstance(results, Iterable):
        raise StartupError(f"must return an iterable, not {type(results).__name__}; return [] for nothing")
    return list(results)


def result_faults(hook: str, result: Any) -> list[str]:
    """What is wrong with one of the results of a hook."""
    if inspect.isclass(result) and hook != "register_lifespans":
        return [f"{result.__name__} is a class; return an object of it"]
    match hook:
        case "register_lifespans":
            return _lifespan_faults(result)
        case "register_services":
            is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], ServiceKey)
            return [] if is_pair else ["each result must be a pair of a ServiceKey and the service"]
        case "register_routes":
            return _route_faults(result)
        case "register_tools":
            return _shape_faults(result, protocols.ToolSource if hasattr(result, "tools") else protocols.Tool)
        case "register_limiters" if isinstance(result, protocols.AttemptLimiter) and not hasattr(result, "admit"):
            return _shape_faults(result, protocols.AttemptLimiter)
        case "register_vendors":
            faults = _shape_faults(result, protocols.Vendor)
            return [*faults, *_name_faults(result), *([] if faults else _table_faults(result))]
    return _shape_faults(result, _KINDS[hook])


def _lifespan_faults(result: Any) -> list[str]:
    if not callable(result):
        return ["each result must be callable and give an async context manager"]
    if inspect.isasyncgenfunction(result) or inspect.iscoroutinefunction(result):
        return [f"{result.__name__} must give an async context manager: it lacks @contextlib.asynccontextmanager"]
    return []


def _shape_faults(result: Any, kind: type) -> list[str]:
    """How `result` differs from the protocol or class `kind`."""
    own = type(result).__name__
    if not isinstance(result, kind):
        missing = [name for name in _members(kind) if not hasattr(result, name)] if kind in _STRUCTURAL else []
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        return [f"{own} is not {article} {kind.__name__}" + (f", it lacks {', '.join(missing)}" if missing else "")]
    faults: list[str] = []
    for name in _members(kind):
        is_async, must_be = (inspect.iscoroutinefunction(getattr(one, name)) for one in (result, kind))
        if is_async == must_be or name in _MAY_WAIT:
            faults += _arity_faults(result, kind, name)
        elif must_be:
            faults.append(f"{own}.{name} must be `async def`")
        else:
            # Nobody would await it. A vendor's `stream`, an async generator, is one only if its `yield` was forgotten.
            faults.append(f"{own}.{name} must not be `async def`{' without a yield' if name == 'stream' else ''}")
    return faults


def _arity_faults(result: Any, kind: type, name: str) -> list[str]:
    """Whether a method can be called as `kind` is; what has no signature that Python could tell is let pass."""
    method, spec = getattr(result, name), vars(kind)[name]
    if isinstance(spec, property):
        return []
    wanted = [one for one in list(inspect.signature(spec).parameters.values())[1:] if one.default is one.empty]
    try:
        inspect.signature(method).bind(*wanted)
    except ValueError:
        return []
    except TypeError as error:
        return [f"{type(result).__name__}.{name} must take ({', '.join(one.name for one in wanted)}): {error}"]
    return []


def _members(kind: type) -> list[str]:
    """The public methods and properties that `kind` declares, in its order."""
    return [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]


def _name_faults(vendor: Any) -> list[str]:
    name = getattr(vendor, "name", "")
    if isinstance(name, str) and name == name.lower():
        return []
    return [f"the vendor name {name!r} must be lower case; settings are read so"]


def _table_faults(vendor: Any) -> list[str]:
    """What is wrong with a vendor's tables of parameters, which are first read with a call."""
    if isinstance(vendor.operations, str) or not isinstance(vendor.operations, Collection):
        return [f"{type(vendor).__name__}.operations must be a set of words, such as frozenset({{'chat'}})"]
    tables = vendor.parameters
    if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
        return [f"{type(vendor).__name__}.parameters must have a table by operation; {{}} for none"]
    return [
        f"{type(vendor).__name__}.parameters: {name!r} of {operation!r} must be mapped(), dropped() or refused()"
        for operation, table in tables.items()
        for name, parameter in table.items()
        if not isinstance(parameter, Parameter)
    ]


def _route_faults(route: Any) -> list[str]:
    """What is wrong with a route: what aiohttp would refuse only later, and an `auth` that would let everybody in."""
    if isinstance(route, protocols.Endpoint):
        return [*_path_faults(route), *_shape_faults(route.surface, protocols.Surface)]
    if not isinstance(route, protocols.Route):
        return [f"{type(route).__name__} is not a Route or Endpoint"]
    if route.auth is False or route.auth in ("user", "admin"):
        return _path_faults(route)
    where = f"{route.method} {route.path}"
    return [*_path_faults(route), f"{where}: auth must be 'user', 'admin' or False, not {route.auth!r}"]


def _path_faults(route: protocols.Route | protocols.Endpoint) -> list[str]:
    where = f"{route.method} {route.path}"
    try:
        web.UrlDispatcher().add_route(route.method, route.path, _nothing)
    except Exception as error:  # noqa: BLE001  # several kinds, depending on what is wrong
        return [f"{where}: {error}"]
    return [] if route.path.startswith("/") else [f"{where}: the path must begin with /"]


async def _nothing(request: web.Request) -> web.StreamResponse:
    """A handler for trying a path only."""
    return web.Response(status=501)
