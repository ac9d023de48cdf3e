"""Where a deployment is called, with which headers and options: made once per deployment."""

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

from yarl import URL

from gatehook import Target, read_options
from gatehook_plugins.vendor_gemini.options import Options

__all__ = ["Endpoint", "files_uri", "model_path"]

DEFAULT_BASE = "https://generativelanguage.googleapis.com/v1beta"

_VERSION = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?$")
_COLLECTIONS = ("models/", "tunedModels/")

Method = Literal["generateContent", "streamGenerateContent", "batchEmbedContents"]


class Endpoint:
    """The URLs, headers and options of one deployment. The key travels in a header only: URLs end up in logs."""

    __slots__ = ("_urls", "headers", "models", "options", "target")

    def __init__(self, target: Target) -> None:
        """Read the deployment.

        Raises:
            Misconfigured: its options are wrong.
        """
        self.target = target
        self.options = read_options(target, Options)
        root = f"{_base(target)}/{_quoted(model_path(target.model))}"
        # encoded: yarl would otherwise turn a quoted character of the model's name back into a separator.
        self._urls = {
            "generateContent": URL(f"{root}:generateContent", encoded=True),
            "streamGenerateContent": URL(f"{root}:streamGenerateContent?alt=sse", encoded=True),
            "batchEmbedContents": URL(f"{root}:batchEmbedContents", encoded=True),
        }
        self.models = URL(f"{_base(target)}/models?pageSize=1", encoded=True)
        headers = {"Content-Type": "application/json"}
        if secret := target.secret():
            headers["x-goog-api-key"] = secret
        self.headers: Mapping[str, str] = headers

    def url(self, method: Method) -> URL:
        """The URL of one of the API's methods."""
        return self._urls[method]


def model_path(model: str) -> str:
    """The model's resource name: a bare name is one of `models/`."""
    return model if model.startswith(_COLLECTIONS) else f"models/{model}"


def files_uri(target: Target, name: str) -> str:
    """The URI of a file that was uploaded through the Files API (`files/abc`)."""
    return f"{_base(target)}/{name}"


def _quoted(path: str) -> str:
    """The resource name for a path; only its first slash separates."""
    collection, _, name = path.partition("/")
    return f"{collection}/{quote(name, safe='')}"


def _base(target: Target) -> str:
    base = (target.base_url or DEFAULT_BASE).rstrip("/")
    return base if _VERSION.search(base) else f"{base}/v1beta"
