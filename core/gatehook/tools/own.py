"""The tools that the gateway runs itself: which of them a model is told of, and how one is run."""

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook.config.sections import ToolSettings
from gatehook.errors import GatewayError, InvalidRequest
from gatehook.failures import FAILURES, is_failure
from gatehook.jsonio import Document, MalformedJSON, decode, encode
from gatehook.model import Call, ToolCall
from gatehook.protocols import Selective, Tool, ToolSource
from gatehook.services import Catalog

__all__ = ["TOOL_FIELDS", "OwnTools", "follow_up", "read_arguments", "tool_faults"]

log = logging.getLogger("gatehook.tools")

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A tool's name that all vendors accept."""

TOOL_FIELDS: Final = ("tools", "tool_choice", "parallel_tool_calls")
"""The fields of a request that say what the model may call."""


class OwnTools:
    """The tools of all plugins, frozen at the start; sources are asked anew for each call."""

    def __init__(self, provided: Sequence[Tool | ToolSource], settings: ToolSettings, catalog: Catalog) -> None:
        """`provided` have been checked (see `tool_faults`); `catalog` tells which models can call tools at all."""
        self._tools = tuple(one for one in provided if not isinstance(one, ToolSource))
        self._sources = tuple(one for one in provided if isinstance(one, ToolSource))
        self._settings = settings
        self._catalog = catalog
        self.max_rounds = settings.max_rounds

    def offer(self, call: Call) -> None:
        """Add to a chat's request the tools that its model is told of, and set `call.own_tools` to them.

        A tool of the client's with the same name stays the client's. Nothing is added to a request for several answers
        (each would be a conversation of its own), one in OpenAI's old form (`functions`), or one that forbids tools.
        """
        if call.operation != "chat" or not self._can_call(call):
            return
        payload = call.payload
        given = payload.get("tools") or []
        if (
            not isinstance(given, list)
            or payload.get("n") not in (None, 1)
            or payload.get("tool_choice") == "none"
            or payload.get("functions")
        ):
            return
        taken = set(tool_names(given))
        own: dict[str, Tool] = {}
        for tool in self._for(call):
            if tool.name not in taken:
                own.setdefault(tool.name, tool)
        if own:
            call.own_tools = own
            call.body = Document({**payload, "tools": [*given, *map(_as_openai, own.values())]})

    def _can_call(self, call: Call) -> bool:
        """Whether some deployment of the model can be offered tools; one that tells no capabilities has them all."""
        targets = self._catalog.group(call.model)
        return not targets or any(not one.capabilities or "tools" in one.capabilities for one in targets)

    def _for(self, call: Call) -> Iterator[Tool]:
        """The tools for this call; of two with the same name the first counts."""
        for tool in self._tools:
            if _suits(tool, call):
                yield tool
        for source in self._sources:
            yield from _tools_of(source, call)

    def find(self, call: Call, name: str) -> Tool | None:
        """The own tool that the call's model may call by this name; None if there is none."""
        if name in call.own_tools:
            tool: Tool = call.own_tools[name]
            return tool
        return next((tool for tool in self._for(call) if tool.name == name), None)

    async def execute(self, call: Call, tool_call: ToolCall) -> str:
        """Run one call of an own tool, without asking policies; returns what the model is told.

        It is told what goes wrong as well (arguments that do not fit, a failure, a timeout); nothing but a cancellation
        is raised.
        """
        tool = self.find(call, tool_call.name)
        if tool is None:
            return f"error: there is no tool {tool_call.name!r} any more"
        try:
            arguments = self._arguments(tool, tool_call)
            async with asyncio.timeout(self._settings.timeout):
                result = await tool.run(call, arguments)
            if not isinstance(result, str):
                raise TypeError(f"run() gave {type(result).__name__}, not a text")
        except TimeoutError:
            return f"error: {tool.name} took too long"
        except asyncio.CancelledError as error:
            if not is_failure(error):
                raise
            return f"error: {tool.name} was broken off"  # something within the tool was cancelled, not this call
        except GatewayError as error:
            return self._cut(f"error: {error.message}")
        except (Exception, SystemExit):  # in a task, as here, a SystemExit would end the program
            log.exception("%s: the tool %r failed", call.id, tool.name)
            return f"error: {tool.name} failed"
        return self._cut(result)

    def _arguments(self, tool: Tool, tool_call: ToolCall) -> Mapping[str, Any]:
        arguments = read_arguments(tool_call.arguments)
        if arguments is None:
            raise InvalidRequest("the arguments are not a JSON object")
        from gatehook.tool_schema import SchemaFault, compiled  # loads a library, at the first need

        try:
            fault = compiled(encode(dict(tool.parameters))).misfit(arguments)
        except SchemaFault as error:  # of a source's tool, whose schema was not checked at start-up
            fault = f"the arguments cannot be checked: the tool's schema {error}"
        if fault:
            raise InvalidRequest(f"the call is invalid: {fault}")
        return arguments

    def _cut(self, text: str) -> str:
        """The text, cut to `tools.max_result` if it is too long."""
        most = self._settings.max_result
        raw = text.encode("utf-8", "surrogatepass")
        if len(raw) <= most:
            return text
        log.info("a tool's result of %d bytes is cut to %d (tools.max_result)", len(raw), most)
        return f"{raw[:most].decode('utf-8', 'ignore')}\n[cut: {most} of {len(raw)} bytes]"


def _suits(tool: Tool, call: Call) -> bool:
    """Whether a tool is for this call; False if it fails to tell."""
    try:
        return not isinstance(tool, Selective) or tool.suits(call)
    except FAILURES:
        log.exception("%s: suits() of the tool %r failed; the model is not told of it", call.id, tool.name)
        return False


def _tools_of(source: ToolSource, call: Call) -> Sequence[Tool]:
    """A source's tools that models can be told of; none if it fails to tell."""
    try:
        return [tool for tool in source.tools(call) if _NAME.fullmatch(tool.name)]
    except FAILURES:
        log.exception("%s: tools() of %s failed; the model is told of none", call.id, type(source).__qualname__)
        return ()


def read_arguments(text: str) -> Mapping[str, Any] | None:
    """The arguments of a tool call, {} for an empty text; None if they are not a JSON object."""
    try:
        arguments = decode(text) if text.strip() else {}
    except MalformedJSON:
        return None
    return arguments if isinstance(arguments, dict) else None


def tool_names(tools: Iterable[Any]) -> Iterator[str]:
    """The names in a request's `tools`."""
    for tool in tools:
        if isinstance(tool, dict):
            function = tool.get("function") or tool.get("custom") or tool
            if isinstance(function, dict) and isinstance(name := function.get("name"), str):
                yield name


def follow_up(body: Mapping[str, Any], message: Mapping[str, Any], results: Mapping[str, str]) -> Document:
    """The next request, after tools were run.

    Args:
        body: the request that the model has answered.
        message: its answer, an assistant's message with `tool_calls`, each of which has an id.
        results: the result of each, by its id.
    """
    told = [{"role": "tool", "tool_call_id": key, "content": content} for key, content in results.items()]
    payload = {**body, "messages": [*(body.get("messages") or ()), message, *told]}
    if "tool_choice" in payload:
        payload["tool_choice"] = _after_a_call(payload["tool_choice"])
    return Document(payload)


def _after_a_call(choice: Any) -> Any:
    """The `tool_choice` of the next request: one that demanded a call has got it, and would demand more without end."""
    if isinstance(choice, dict) and isinstance(allowed := choice.get("allowed_tools"), dict):
        return {**choice, "allowed_tools": {**allowed, "mode": "auto"}}
    return "auto" if choice == "required" or isinstance(choice, dict) else choice


def tool_faults(provided: Iterable[tuple[str, Tool | ToolSource]]) -> Iterator[str]:
    """A fault for every tool whose name, description or schema cannot be used, or whose name is taken.

    Args:
        provided: tools and sources, each with the name of its plugin.
    """
    owners: dict[str, str] = {}
    for plugin, tool in provided:
        if isinstance(tool, ToolSource):
            continue
        if not isinstance(tool.name, str) or not _NAME.fullmatch(tool.name):
            yield f"plugin {plugin!r}: tool {tool.name!r}: a name has 1 to 64 letters, digits, '_' and '-'"
        elif tool.name in owners:
            yield f"tool {tool.name!r} is provided by both {owners[tool.name]!r} and {plugin!r}; rename or disable one"
        if not isinstance(tool.description, str):
            yield f"plugin {plugin!r}: tool {tool.name!r}: description: must be a text"
        from gatehook.tool_schema import schema_fault  # loads a library: only where there are tools

        schema = tool.parameters
        if fault := schema_fault(dict(schema) if isinstance(schema, Mapping) else schema):
            yield f"plugin {plugin!r}: tool {tool.name!r}: parameters: {fault}"
        owners.setdefault(tool.name, plugin)


def _as_openai(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
