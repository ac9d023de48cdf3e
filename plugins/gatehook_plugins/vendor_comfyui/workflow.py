"""A workflow in ComfyUI's API format: read, checked, and filled with what a client asks for."""

import copy
import graphlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from gatehook import InvalidRequest, MalformedJSON, Retry, decode
from gatehook_plugins.vendor_comfyui.options import InputOptions, Options

__all__ = ["Input", "Workflow", "WorkflowError", "canonical_input", "load"]

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "text": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}
_LONGEST: Final = 100_000
"""Characters of a text that a client gives."""
_ALIASES: Final = {"negative": "negative_prompt"}
_RESERVED: Final = frozenset({"messages", "stream", "stream_options", "response_format", "size", "user", "async"})
"""Fields of requests that mean something else."""
_ON_THE_SOCKET: Final = "SaveImageWebsocket"
"""A node that sends its pictures once, to an open socket; they cannot be fetched later."""


class WorkflowError(Exception):
    """The workflow, or what the options say of it, is wrong. `faults` holds everything that was found."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


def canonical_input(name: str) -> str:
    """The name of an input, also if it is given by an alias."""
    return _ALIASES.get(name, name)


class Input(Struct, frozen=True):
    """A value that clients may give: where it goes, and what it may be."""

    name: str
    places: Sequence[tuple[str, str]]
    """Nodes and their fields."""
    type: str
    least: float | None = None
    most: float | None = None
    choices: Sequence[str | int | float] | None = None

    def read(self, value: Any, param: str = "") -> Any:
        """The value, checked.

        Raises:
            InvalidRequest: it does not fit; the message names `param`.
        """
        param = param or self.name
        if why := self.misfit(value):
            raise InvalidRequest(f"{param}: {why}", param=param, code="invalid_value", retry=Retry.NEXT)
        return value

    def misfit(self, value: Any) -> str:
        """What is wrong with a value; "" if nothing is."""
        if not isinstance(value, _TYPES[self.type]) or (isinstance(value, bool) and self.type != "bool"):
            return f"expected {'a number' if self.type == 'float' else f'a {self.type}'}".replace("a int", "an int")
        if isinstance(value, str) and len(value) > _LONGEST:
            return f"longer than {_LONGEST} characters"
        if isinstance(value, float) and not math.isfinite(value):
            return "expected a finite number"
        if self.choices is not None and value not in self.choices:
            return f"expected one of: {', '.join(map(str, self.choices))}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.least is not None and value < self.least:
                return f"expected at least {self.least}"
            if self.most is not None and value > self.most:
                return f"expected at most {self.most}"
        return ""


class Workflow(Struct, frozen=True):
    """A sound workflow, and its inputs by name."""

    nodes: Mapping[str, Any]
    inputs: Mapping[str, Input]
    outputs: Sequence[str] = ()
    """Nodes whose pictures are the answer; all, if none are named."""

    def filled(self, values: Mapping[str, Any], tag: str) -> dict[str, Any]:
        """The workflow with these values, ready to be run.

        ComfyUI does not run the same workflow with the same values again, but answers with the names of the old files,
        which may be gone. `tag` is unique and becomes a part of the files' names, so that they are written anew.
        """
        nodes = copy.deepcopy(dict(self.nodes))
        for name, value in values.items():
            for node, field in self.inputs[name].places:
                nodes[node]["inputs"][field] = value
        for node in nodes.values():
            prefix = node["inputs"].get("filename_prefix")
            if isinstance(prefix, str):
                node["inputs"]["filename_prefix"] = f"{prefix}_{tag}"
        return nodes

    def input_at(self, node: str, field: str) -> str | None:
        """The name of the input that goes to this field; None if none does."""
        return next((name for name, one in self.inputs.items() if (node, field) in one.places), None)

    def called(self, node: str) -> str:
        """A node's title, else its class, for messages."""
        known = self.nodes.get(node)
        if known is None:
            return node
        title = (known.get("_meta") or {}).get("title")
        return title if isinstance(title, str) and title else str(known["class_type"])


def load(options: Options, folder: Path) -> Workflow:
    """Read a deployment's workflow.

    Args:
        options: of the deployment.
        folder: where the settings file is.

    Raises:
        WorkflowError: with every fault.
    """
    file = folder / Path(options.workflow).expanduser()
    try:
        nodes = decode(file.read_bytes())
    except OSError as error:
        raise WorkflowError(f"workflow {options.workflow!r}: cannot be read: {error.strerror}") from None
    except (MalformedJSON, UnicodeDecodeError) as error:
        raise WorkflowError(f"workflow {options.workflow!r}: is not JSON: {error}") from None
    if faults := list(_faults(nodes)):
        raise WorkflowError(*(f"workflow {options.workflow!r}: {fault}" for fault in faults))
    faults, inputs = [], {}
    for name, said in options.inputs.items():
        try:
            inputs[canonical_input(name)] = _input(name, said, nodes)
        except ValueError as error:
            faults.append(f"inputs: {name}: {error}")
    if "prompt" not in options.inputs:
        faults.append("inputs: prompt: say which node gets it, as in prompt = '6.text'")
    faults += [f"outputs: there is no node {node!r}" for node in options.outputs if node not in nodes]
    if faults:
        raise WorkflowError(*faults)
    return Workflow(nodes, inputs, tuple(options.outputs))


def _faults(nodes: Any) -> Iterator[str]:
    """What is wrong with the form of a workflow: ComfyUI crashes on some of it, or reports it only when it runs."""
    if not isinstance(nodes, dict) or not nodes:
        yield "expected an object of nodes"
    elif isinstance(nodes.get("nodes"), list):
        yield "is in the format of ComfyUI's editor; save it by 'Export (API)' instead"
    else:
        broken = [f"node {name!r}: {fault}" for name, node in nodes.items() for fault in _node_faults(node, nodes)]
        yield from broken or _circles(nodes)
        kinds = {str(node.get("class_type")) for node in nodes.values() if isinstance(node, dict)}
        others = kinds - {_ON_THE_SOCKET}
        if others != kinds and not any("Save" in kind or "Preview" in kind for kind in others):
            yield f"{_ON_THE_SOCKET} sends its pictures only once, so they can be lost; use SaveImage or PreviewImage"


def _node_faults(node: Any, nodes: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(node, dict):
        yield "expected an object"
        return
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        yield "class_type is missing"
    inputs = node.get("inputs")
    if not isinstance(inputs, dict):
        yield "inputs is missing, or no object"
        return
    for field, value in inputs.items():
        if _is_link(value) and value[0] not in nodes:
            yield f"{field}: comes from node {value[0]!r}, which is not there"


def _circles(nodes: Mapping[str, Any]) -> Iterator[str]:
    """Cycles, of which ComfyUI itself only says that something is wrong."""
    links = {name: [value[0] for value in node["inputs"].values() if _is_link(value)] for name, node in nodes.items()}
    try:
        graphlib.TopologicalSorter(links).prepare()
    except graphlib.CycleError as error:
        yield f"nodes wait for each other: {', '.join(error.args[1][1:])}"


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _input(name: str, said: str | InputOptions, nodes: Mapping[str, Any]) -> Input:
    """One input.

    Raises:
        ValueError: it does not suit the workflow.
    """
    if name in _RESERVED:
        raise ValueError("is a field of requests with another meaning; choose another name")
    options = InputOptions(said) if isinstance(said, str) else said
    written = [options.node] if isinstance(options.node, str) else options.node
    places = [_place(one, nodes) for one in written]
    if not places:
        raise ValueError("node is empty")
    values = [nodes[node]["inputs"][field] for node, field in places]
    kinds = {options.type or _kind(value) for value in values}
    if len(kinds) > 1:
        raise ValueError(f"goes to places of different types ({', '.join(sorted(kinds))}); say which by `type`")
    made = Input(canonical_input(name), places, kinds.pop(), options.min, options.max, options.choices)
    for value in values:
        if not isinstance(value, list) and options.type is None and (why := made.misfit(value)):
            raise ValueError(f"the workflow's own value {json.dumps(value)[:80]} does not suit: {why}")
    return made


def _place(text: str, nodes: Mapping[str, Any]) -> tuple[str, str]:
    node, _, field = text.rpartition(".")
    if node not in nodes:
        raise ValueError(f"{text!r}: there is no node {node!r}; write it as in '6.text'")
    inputs = nodes[node]["inputs"]
    if field not in inputs:
        raise ValueError(f"{text!r}: node {node!r} has no {field!r}, but: {', '.join(inputs) or 'nothing'}")
    if _is_link(inputs[field]):
        raise ValueError(f"{text!r}: gets its value from node {inputs[field][0]!r}; name a place that holds a value")
    return node, field


def _kind(value: Any) -> str:
    for kind in ("text", "bool", "int", "float"):
        if isinstance(value, _TYPES[kind]):
            return kind
    raise ValueError(f"holds {json.dumps(value)[:80]}, which is neither a text nor a number; say its `type`")
