"""Compares a workflow with what its server says of its nodes, so that faults show before it is run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook_plugins.vendor_comfyui.server import Server
from gatehook_plugins.vendor_comfyui.workflow import Workflow

__all__ = ["node_faults", "server_faults"]

_LINKED: Final = frozenset({
    "AUDIO", "CLIP", "CLIP_VISION", "CLIP_VISION_OUTPUT", "CONDITIONING", "CONTROL_NET", "GUIDER", "IMAGE", "LATENT",
    "MASK", "MODEL", "NOISE", "SAMPLER", "SIGMAS", "STYLE_MODEL", "UPSCALE_MODEL", "VAE", "VIDEO",
})  # fmt: skip
"""Types of values that only another node can give. The server would accept anything, and fail when it runs."""


async def server_faults(workflow: Workflow, server: Server) -> list[str]:
    """All faults of a workflow at a server.

    Raises:
        GatewayError: the server cannot be asked.
    """
    faults, is_answered = list[str](), False
    for name, node in workflow.nodes.items():
        kind = await server.node_kind(node["class_type"])
        is_answered |= kind is None or kind.get("output_node") is not False
        faults += [f"node {name} ({workflow.called(name)}): {fault}" for fault in node_faults(workflow, name, kind)]
    if not is_answered:
        faults.append("no node saves or shows a picture; add SaveImage")
    return faults


def node_faults(workflow: Workflow, name: str, kind: Mapping[str, Any] | None) -> Iterator[str]:
    """What is wrong with a node at a server.

    Args:
        workflow: which has the node.
        name: of the node.
        kind: what the server says of the node's class; None if it does not have that class.
    """
    node = workflow.nodes[name]
    if kind is None:
        yield f"the server has no {node['class_type']}; a custom node is not installed"
        return
    told = kind.get("input") or {}
    fields: dict[str, Any] = {**(told.get("required") or {}), **(told.get("optional") or {})}
    for field in told.get("required") or {}:
        if field not in node["inputs"]:
            yield f"{field}: required, but missing"
    for field, value in node["inputs"].items():
        if _is_linked(fields.get(field)) and not isinstance(value, list):
            yield f"{field}: wants another node, and is {value!r}"
        choices = _choices(fields.get(field))
        if choices is not None and not isinstance(value, list) and value not in choices:
            yield f"{field}: the server has no {value!r}"
        yield from _bound_faults(workflow, name, field, fields.get(field))


def _is_linked(field: Any) -> bool:
    return isinstance(field, list) and bool(field) and isinstance(field[0], str) and field[0] in _LINKED


def _choices(field: Any) -> Sequence[Any] | None:
    """The choices of a field, in the form of older or of newer servers; None if it is no choice."""
    if not isinstance(field, list) or not field:
        return None
    if isinstance(field[0], list):
        return field[0]
    options = field[1].get("options") if field[0] == "COMBO" and len(field) > 1 else None
    return options if isinstance(options, list) else None


def _bound_faults(workflow: Workflow, name: str, place: str, field: Any) -> Iterator[str]:
    """Bounds of clients' inputs that are wider than the server's."""
    one = workflow.inputs.get(workflow.input_at(name, place) or "")
    bounds = field[1] if isinstance(field, list) and len(field) > 1 and isinstance(field[1], dict) else {}
    if one is None:
        return
    least, most = bounds.get("min"), bounds.get("max")
    if one.least is not None and least is not None and one.least < least:
        yield f"{place}: the server takes no less than {least}, and clients may give {one.least} as {one.name!r}"
    if one.most is not None and most is not None and one.most > most:
        yield f"{place}: the server takes no more than {most}, and clients may give {one.most} as {one.name!r}"
