"""GET /openapi.json: all paths of the gateway in OpenAPI 3.1; schemas are made from the types that check the bodies."""

import inspect
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from gatehook import Endpoint, Route, encode

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["OpenApiPage", "openapi"]

_SUMMARIES: Final = {
    "chat": "Answer a conversation, plain or streamed",
    "completions": "Continue a text, plain or streamed",
    "embeddings": "Turn texts into vectors",
    "images": "Make pictures",
}
"""Summaries of operations; others are called by their names."""
_ERRORS: Final = (400, 401, 403, 404, 413, 415, 429, 502, 503, 504)
_NAME: Final = re.compile(r"{(\w+)(?::[^{}]*)?}")
"""A parameter of a path, and the pattern that it must match."""
_WORD: Final = re.compile(r"{\w+:(\w+)}")
"""A parameter whose pattern is one word, so that it is no parameter to clients."""
_OBJECT: Final = {"type": "object"}


class OpenApiPage:
    """The document of one gateway."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._encoded = b""

    async def document(self, request: web.Request) -> web.Response:
        """This document."""
        self._encoded = self._encoded or encode(openapi(self._gateway.routes))
        return web.Response(body=self._encoded, headers={"Content-Type": "application/json"})


def openapi(routes: Iterable[tuple[str, Route | Endpoint]]) -> dict[str, Any]:
    """The OpenAPI 3.1 object of these routes, each with the plugin that serves it."""
    known = [(plugin, route) for plugin, route in routes if route.method != "*"]
    types = list({route.takes for _, route in known if isinstance(route, Endpoint) and route.takes is not None})
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    bodies = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for plugin, route in known:
        path = _WORD.sub(r"\1", route.path)
        item = paths.setdefault(_NAME.sub(r"{\1}", path), {})
        item[route.method.lower()] = {"tags": [plugin], **_operation(route, bodies)}
        if names := _NAME.findall(path):
            item["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Gatehook", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR, "Job": _JOB, "Model": _MODEL},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route | Endpoint, bodies: dict[type, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(route, Endpoint):
        body = bodies[route.takes] if route.takes is not None else _OBJECT
        return _inference(_SUMMARIES.get(route.operation, route.operation), body, route.surface.name == "openai")
    summary = (inspect.getdoc(route.handler) or route.path).partition("\n")[0].rstrip(".")
    told = _ANSWERS.get((route.method, route.path), {})
    ok = {"description": "The answer", "content": {"application/json": {"schema": told}} if told else {}}
    said: dict[str, Any] = {"summary": summary, "responses": {"200": ok, **_errors(route.errors is None)}}
    if route.auth is False:
        said["security"] = []
    elif route.auth == "admin":
        said["description"] = "Needs an admin credential."
    return said


def _inference(summary: str, body: dict[str, Any], is_openai: bool) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "The answer; a stream of events where `stream` is true",
                "content": {"application/json": {"schema": _OBJECT}, "text/event-stream": {}},
            },
            "202": {
                "description": "The job that makes the answer, where `async` is true",
                "content": {"application/json": {"schema": _reference("Job") if is_openai else _OBJECT}},
            },
            **_errors(is_openai),
        },
    }


def _errors(is_openai: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference("Error") if is_openai else _OBJECT}}
    return {str(status): {"description": "An error", "content": content} for status in _ERRORS}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_ANSWERS: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("GET", "/v1/models"): {
        "type": "object",
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _reference("Model")}},
        "required": ["object", "data"],
    },
    ("GET", "/v1/models/{id:.+}"): _reference("Model"),
}
"""What this surface's own routes answer."""

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_JOB = {
    "type": "object",
    "required": ["status", "job_id", "model"],
    "properties": {
        "status": {"const": "async_started"},
        "job_id": {"type": "string"},
        "model": {"type": "string"},
    },
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
