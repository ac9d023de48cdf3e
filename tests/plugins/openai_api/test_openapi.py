"""The document tells of every path there is, whichever plugin serves it."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
from jsonschema import Draft202012Validator

from gatehook import encode
from gatehook.testing import built, serving
from gatehook_plugins.openai_api.openapi import openapi

ROOT = Path(__file__).parents[3]


def everything(folder: Path) -> str:
    """All plugins that need nothing but a database."""
    names = re.findall(r"^\[plugins\.(\w+)]", (ROOT / "settings.toml").read_text("utf-8"), re.MULTILINE)
    special = {"auth_jwt", "mcp_tools", "http_tools", "vendor_gguf", "files"}
    tables = "".join(f"[plugins.{name}]\n" for name in names if name not in special)
    return f"[database]\nurl = 'sqlite:///{folder}/a.db'\n[plugins.files]\ndirectory = '{folder}'\n{tables}"


def served(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method, path) for path, item in document["paths"].items() for method in item if method != "parameters"}


def test_every_path_of_every_plugin_is_there_and_well_formed(tmp_path: Path) -> None:
    gateway = built(everything(tmp_path))
    document = json.loads(encode(openapi(gateway.routes)))
    told = served(document)
    assert {
        ("post", "/v1/chat/completions"), ("post", "/v1/images/generations"), ("get", "/v1/jobs"),
        ("delete", "/v1/jobs/{id}"), ("get", "/files/{id}"), ("get", "/metrics"), ("post", "/admin/users"),
        ("post", "/api/v1/generate"), ("put", "/api/llm/config/models/{id}"), ("get", "/openapi.json"),
    } <= told  # fmt: skip
    assert len(told) == len([route for _, route in gateway.routes if route.method != "*"])
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for path, item in document["paths"].items():
        assert set(re.findall(r"{(\w+)}", path)) == {one["name"] for one in item.get("parameters", [])}
        assert "{" not in re.sub(r"{\w+}", "", path)
    for method, path in told:
        assert document["paths"][path][method]["summary"], path


def test_bodies_are_the_types_that_check_them_and_who_may_call_is_told(tmp_path: Path) -> None:
    document = openapi(built(everything(tmp_path)).routes)
    images = document["paths"]["/v1/images/generations"]["post"]
    assert images["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ImageRequest"
    }
    assert images["tags"] == ["images_api"]
    assert "negative_prompt" in document["components"]["schemas"]["ImageRequest"]["properties"]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "security" not in document["paths"]["/v1/jobs"]["get"]
    assert document["paths"]["/admin/users"]["post"]["description"] == "Needs an admin credential."


async def test_a_plugin_that_is_off_is_not_told_of() -> None:
    async with (
        serving("[plugins.openai_api]\n[plugins.health]\n") as gateway,
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.url}/openapi.json") as answer,
    ):
        document = await answer.json()
    assert {path for _, path in served(document)} == {
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/{id}", "/openapi.json",
        "/health", "/health/live", "/health/ready",
    }  # fmt: skip
