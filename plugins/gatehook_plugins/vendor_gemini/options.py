"""What an operator may set in a deployment's `options`, read with its type checked.

`safety_settings`: {category = threshold} or Google's own list. `json_schema = false`: for models before 2.5, which know
only Google's Schema object. `function_ids = false`: for endpoints that give ids with function calls and refuse them
when they come back. `reasoning_effort`: {effort = budget or level}, for models that `thinking.py` does not know.
`include_thoughts = false`: no reasoning in answers. `task_type`: what embeddings are for.
"""

from typing import Any, TypeVar

from gatehook import GatewayError, Retry, Target

__all__ = ["misconfigured", "option", "safety_settings"]

T = TypeVar("T")


def option(target: Target, name: str, kind: type[T], default: T) -> T:
    """The option `name` of a deployment, or `default`.

    Raises:
        GatewayError: the operator set it to something of another type.
    """
    value = target.options.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise misconfigured(target, name, f"expected a {kind.__name__}")
    return value


def safety_settings(target: Target) -> list[dict[str, Any]]:
    """Google's safetySettings of a deployment, empty if none are set."""
    value = target.options.get("safety_settings")
    if value is None:
        return []
    if isinstance(value, dict):
        return [{"category": category, "threshold": threshold} for category, threshold in value.items()]
    if isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value):
        return list(value)
    raise misconfigured(target, "safety_settings", "expected {category = threshold}, or a list of tables")


def misconfigured(target: Target, name: str, why: str) -> GatewayError:
    """The operator's fault, not the client's; another deployment may do."""
    return GatewayError(f"model {target.name!r}: options.{name}: {why}", code="misconfigured_model", retry=Retry.NEXT)
