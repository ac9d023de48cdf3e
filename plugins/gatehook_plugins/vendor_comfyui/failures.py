"""What ComfyUI says when something is wrong, for clients: without paths, tracebacks and the prompts of others.

Neither clients nor the log see the deployment's secrets, which a proxy before the server may quote.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from gatehook import (
    Attempt,
    GatewayError,
    InvalidRequest,
    MalformedJSON,
    Retry,
    Target,
    Upstream,
    UpstreamError,
    decode,
    redact,
    upstream_error,
)
from gatehook_plugins.vendor_comfyui.workflow import Workflow

__all__ = ["failed", "from_answer", "gone", "rejected"]

log = logging.getLogger("gatehook.comfyui")

_MEMORY: Final = ("outofmemory", "out of memory", "allocate memory", "not enough memory")


async def from_answer(target: Target, upstream: Upstream) -> GatewayError:
    """The error of an answer that is not a 200; its words may hold paths, so they are only logged."""
    said = await upstream.read_error()
    words = redact(said.decode("utf-8", "replace"), target.secrets())[:500]
    log.warning("%s answered %d: %s", target.key, upstream.status, words)
    message = f"answered {upstream.status}"
    return upstream_error(target.vendor, upstream.status, message, retry_after=upstream.retry_after)


def rejected(attempt: Attempt, workflow: Workflow, body: bytes) -> GatewayError:
    """Why the server does not take a workflow: the client's fault, if it is about a value that the client may give.

    Args:
        attempt: whose workflow was not taken.
        workflow: what was sent.
        body: the server's answer; also one that took the workflow without some of its nodes.
    """
    vendor = attempt.target.vendor
    try:
        told = _decoded(attempt.target, body)
        nodes = told.get("node_errors") or {}
        faults = [(node, fault) for node, said in nodes.items() for fault in said["errors"]]
        if not faults:
            message = told["error"]["message"]
            return UpstreamError(
                f"{vendor}: the server does not take the workflow: {message}",
                code="upstream_misconfigured",
                retry=Retry.NEXT,
            )
        for node, fault in faults:
            name = workflow.input_at(node, str((fault.get("extra_info") or {}).get("input_name")))
            if name is not None:
                param = "messages" if name == "prompt" and attempt.call.operation == "chat" else name
                return InvalidRequest(f"{param}: {vendor}: {fault['message']}", param=param, retry=Retry.NEXT)
        node, fault = faults[0]
        return UpstreamError(
            f"{vendor}: the workflow does not suit the server: node {node} ({workflow.called(node)}): "
            f"{fault['message']}: {(fault.get('extra_info') or {}).get('input_name', '')}".rstrip(": "),
            code="upstream_misconfigured",
            retry=Retry.NEXT,
        )
    except (MalformedJSON, KeyError, TypeError, AttributeError):
        return UpstreamError(f"{vendor}: the server does not take the workflow", code="upstream_misconfigured")


def _decoded(target: Target, body: bytes) -> Any:
    """The server's answer about a workflow, without secrets.

    Raises:
        MalformedJSON: it is no JSON.
    """
    return decode(redact(body.decode("utf-8", "replace"), target.secrets()).encode())


def failed(target: Target, workflow: Workflow, entry: Mapping[str, Any]) -> GatewayError | None:
    """What went wrong in a run, by its entry in the history; None if nothing did."""
    status = entry.get("status") or {}
    if status.get("status_str") == "success" and status.get("completed") is True:
        return None
    events = {message[0]: message[1] for message in status.get("messages") or () if len(message) == 2}
    if "execution_interrupted" in events:
        return UpstreamError(
            f"{target.vendor}: somebody stopped the run at the server", code="upstream_interrupted", retry=Retry.NEXT
        )
    error = events.get("execution_error") or {}
    said = (str(error.get(name, "")) for name in ("node_id", "exception_type", "exception_message"))
    node, kind, words = (redact(text, target.secrets()) for text in said)
    log.warning("%s: node %s failed: %s: %s", target.key, node, kind, words.strip()[:2000])
    where = f"node {node} ({workflow.called(node)})" if node else "the run"
    if any(word in f"{kind} {words}".lower() for word in _MEMORY):
        return UpstreamError(
            f"{target.vendor}: {where} ran out of memory", code="upstream_out_of_memory", retry=Retry.NEXT
        )
    return UpstreamError(f"{target.vendor}: {where} failed: {kind or 'no reason given'}", retry=Retry.NEXT)


def gone(target: Target) -> UpstreamError:
    """The error for a run that the server does not know any more."""
    return UpstreamError(
        f"{target.vendor}: the server has lost the run: it was restarted, or its queue was cleared",
        code="upstream_lost_run",
    )
