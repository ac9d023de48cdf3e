"""Surface A: OpenAI's API under /v1, for the official SDKs and everything that speaks their dialect."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import Endpoint, Route, Section, hookimpl
from gatehook_plugins.openai_api.anthropic_shape import errors_for
from gatehook_plugins.openai_api.models import ModelList
from gatehook_plugins.openai_api.openapi import OpenApiPage
from gatehook_plugins.openai_api.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from gatehook_plugins.openai_api.surface import OpenAISurface

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["OpenAIApi"]

_OTHERS_CHATS = ("/v1/responses", "/v1/messages")
"""Newer and other APIs that clients may be set to; most clients can be told to use this one."""


class OpenAIApi:
    """Serves /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models and /openapi.json."""

    class Settings(Section):
        """[plugins.openai_api]."""

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""

    @hookimpl
    def register_routes(self, gateway: "Gateway") -> Iterable[Route | Endpoint]:
        """The inference endpoints, the model list and the OpenAPI document."""
        surface = OpenAISurface()
        models = ModelList(gateway)
        return [
            Endpoint("/v1/chat/completions", "chat", surface, ChatRequest, repeats=True, instead_of=_OTHERS_CHATS),
            Endpoint("/v1/completions", "completions", surface, CompletionRequest, repeats=True),
            Endpoint("/v1/embeddings", "embeddings", surface, EmbeddingRequest, repeats=True),
            Route("GET", "/v1/models", models.list, errors_for=errors_for),
            Route("GET", "/v1/models/{id:.+}", models.one, errors_for=errors_for),
            Route("GET", "/openapi.json", OpenApiPage(gateway).document, auth=False),
        ]
