"""A deployment's URLs, headers and `options`, made once and kept."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from yarl import URL

from gatehook import Target, read_options

__all__ = ["DEFAULT_BASE", "Endpoint", "Options"]

DEFAULT_BASE = "https://api.cohere.com"


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A model's `options`."""

    safety_mode: Literal["CONTEXTUAL", "STRICT", "OFF"] | None = None
    input_type: str = "search_document"
    """What embeddings are for, where a request has no `input_type`."""
    truncate: Literal["NONE", "START", "END"] | None = None
    """At which end a text that is too long for an embedding is cut; NONE: it is an error."""
    priority: int | None = None
    extra: dict[str, Any] = {}
    """Further fields of the chat's body, such as `citation_options`."""


class Endpoint:
    """The URLs, headers and options of one deployment."""

    __slots__ = ("headers", "models", "options", "target", "urls")

    def __init__(self, target: Target, default_base: str) -> None:
        """Read the deployment.

        Raises:
            Misconfigured: its options are wrong.
        """
        root = (target.base_url or default_base).rstrip("/").removesuffix("/v2").removesuffix("/v1")
        self.target = target
        self.options = read_options(target, Options)
        self.urls: Mapping[str, URL] = {word: URL(f"{root}/v2/{word}") for word in ("chat", "embed", "rerank")}
        self.models = URL(f"{root}/v1/models?page_size=1")
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if secret := target.secret():
            headers["Authorization"] = f"Bearer {secret}"
        self.headers: Mapping[str, str] = headers
