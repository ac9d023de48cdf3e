"""What one deployment can do: as its options say, or as the model's name tells."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import Struct
from yarl import URL

from gatehook import Target, read_options

__all__ = ["Defaults", "Options", "Profile", "profile"]

_BETA = "anthropic-beta"

_NO_SAMPLING_SINCE = "2026-10-21"
"""API versions from this one on refuse temperature, top_p and top_k, whatever the model."""

_ADAPTIVE_SINCE = (4, 6)
"""Models before this version think within a budget only; later ones decide themselves, and some refuse a budget."""

_STRUCTURED_SINCE = (4, 1)
"""Models before this version cannot be held to a schema."""

_EITHER_SINCE = (4, 1)
"""Models from this version on refuse temperature and top_p together."""

_MODEL_WITHOUT_SAMPLING = (4, 7)
"""Models from this version on have fixed sampling."""

_RETICENT_SINCE = (4, 7)
"""From here on models leave their thinking out of answers unless a request has it shown."""

_INLINE_SYSTEM_SINCE = (4, 8)
"""From here on models heed system messages in the middle of a conversation, but for Sonnet, which takes and ignores
them, and Haiku."""

# "claude-opus-4-8", "claude-3-5-sonnet-20241022", "anthropic.claude-haiku-4-5-20251001-v1:0", "claude-4.7-opus".
_HEEDFUL = re.compile("claude-(?:opus|fable|mythos)-")
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")


class Defaults(Struct, frozen=True):
    """The plugin's settings, for deployments whose options say nothing else."""

    base_url: str = "https://api.anthropic.com"
    version: str = "2023-06-01"
    beta: tuple[str, ...] = ()
    max_tokens: int = 4096


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """A model's `options` table."""

    version: str = ""
    beta: str | list[str] = ""
    thinking: Literal["budget", "adaptive"] | None = None
    sampling: bool | None = None
    inline_system: bool | None = None
    structured_outputs: bool | None = None
    default_max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """One deployment's address, headers and abilities."""

    target: Target
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    adaptive: bool
    """Whether thinking is adaptive and steered by effort, or has a budget of tokens."""
    reticent: bool
    """Whether thinking is shown only to those who ask for it; such models know the effort xhigh, too."""
    sampling: bool
    """Whether temperature, top_p and top_k are taken."""
    either: bool
    """Whether temperature and top_p are taken only one without the other."""
    inline_system: bool
    """Whether system messages may stand in the middle of a conversation."""
    structured_outputs: bool
    """Whether answers and tool arguments can be held to a JSON schema."""
    default_max_tokens: int

    def headers_with(self, betas: Sequence[str]) -> Mapping[str, str]:
        """The headers of a request that is a part of these betas, too."""
        if not betas:
            return self.headers
        told = self.headers.get(_BETA, "")
        return {**self.headers, _BETA: ",".join(dict.fromkeys([*told.split(","), *betas] if told else betas))}


def profile(target: Target, defaults: Defaults) -> Profile:
    """Work out a deployment's profile.

    Raises:
        Misconfigured: its options are wrong.
    """
    options = read_options(target, Options)
    version = options.version or defaults.version
    generation = _generation(target.model)
    return Profile(
        target=target,
        url=_url(target.base_url or defaults.base_url),
        headers=_headers(target, version, [*defaults.beta, *_listed(options.beta)]),
        adaptive=generation >= _ADAPTIVE_SINCE if options.thinking is None else options.thinking == "adaptive",
        reticent=generation >= _RETICENT_SINCE,
        sampling=(
            version < _NO_SAMPLING_SINCE and generation < _MODEL_WITHOUT_SAMPLING
            if options.sampling is None
            else options.sampling
        ),
        either=generation >= _EITHER_SINCE,
        inline_system=(
            generation >= _INLINE_SYSTEM_SINCE and _HEEDFUL.search(target.model.lower()) is not None
            if options.inline_system is None
            else options.inline_system
        ),
        structured_outputs=(
            not (0, 0) < generation < _STRUCTURED_SINCE
            if options.structured_outputs is None
            else options.structured_outputs
        ),
        default_max_tokens=target.max_tokens or options.default_max_tokens or defaults.max_tokens,
    )


def _generation(model: str) -> tuple[int, int]:
    """A Claude model's version number; (0, 0) where the name does not tell."""
    match = _VERSION.search(model.lower())
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def _url(base: str) -> URL:
    base = base.rstrip("/")
    return URL(f"{base}/messages" if base.endswith("/v1") else f"{base}/v1/messages")


def _headers(target: Target, version: str, beta: list[str]) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "anthropic-version": version}
    if secret := target.secret():
        headers["x-api-key"] = secret
    if beta:
        headers[_BETA] = ",".join(dict.fromkeys(beta))
    return headers


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []
