"""GET /openapi.json: this surface described in OpenAPI 3.1, made from the very types that check the requests."""

from functools import cache
from typing import Any

import msgspec
from aiohttp import web

from gatehook import encode
from gatehook_plugins.openai_api.requests import ChatRequest, CompletionRequest, EmbeddingRequest

__all__ = ["document", "openapi"]

_PATHS = {
    "/v1/chat/completions": (ChatRequest, "Answer a conversation, plain or streamed"),
    "/v1/completions": (CompletionRequest, "Continue a text, plain or streamed"),
    "/v1/embeddings": (EmbeddingRequest, "Turn texts into vectors"),
}
_ERRORS = (400, 401, 403, 404, 413, 415, 429, 502, 503, 504)


async def document(request: web.Request) -> web.Response:
    """The document."""
    return web.Response(body=_encoded(), headers={"Content-Type": "application/json"})


@cache
def _encoded() -> bytes:
    return encode(openapi())


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 object."""
    types = [kind for kind, _ in _PATHS.values()]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    components = {**components, "Error": _ERROR, "Job": _JOB, "Model": _MODEL}
    paths: dict[str, Any] = {
        path: {"post": _post(summary, schema)}
        for (path, (_, summary)), schema in zip(_PATHS.items(), schemas, strict=True)
    }
    paths["/v1/models"] = {"get": _get("List the models", _array_of("#/components/schemas/Model"))}
    paths["/v1/models/{id}"] = {
        "get": _get("One model", {"$ref": "#/components/schemas/Model"}),
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Gatehook", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {
                "description": "The answer; a stream of events where `stream` is true",
                "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
            },
            "202": {
                "description": "The job that makes the answer, where `async` is true",
                "content": {"application/json": {"schema": _reference("Job")}},
            },
            **_error_responses(),
        },
    }


def _get(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    ok = {"description": "The answer", "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "responses": {"200": ok, **_error_responses()}}


def _error_responses() -> dict[str, Any]:
    content = {"application/json": {"schema": _reference("Error")}}
    return {str(status): {"description": "An error", "content": content} for status in _ERRORS}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _array_of(reference: str) -> dict[str, Any]:
    data = {"type": "array", "items": {"$ref": reference}}
    return {"type": "object", "properties": {"object": {"const": "list"}, "data": data}, "required": ["object", "data"]}


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
