"""Anthropic's Claude models behind OpenAI's chat and text completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from gatehook import Section, Vendor, hookimpl
from gatehook_plugins.vendor_anthropic.profile import Defaults
from gatehook_plugins.vendor_anthropic.vendor import Anthropic

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["VendorAnthropic"]


class VendorAnthropic:
    """The vendor `anthropic`: translates to the Messages API, plain and streamed."""

    class Settings(Section):
        """[plugins.vendor_anthropic]."""

        base_url: str = Field(default="https://api.anthropic.com", description="for models that name no base_url")
        version: str = Field(
            default="2023-06-01",
            description="the anthropic-version header; 2026-10-21 and later take no temperature, top_p or top_k",
        )
        beta: tuple[str, ...] = Field(default=(), description="values of the anthropic-beta header, for all models")
        default_max_tokens: int = Field(
            default=4096, ge=1, description="Anthropic demands a limit: for requests and models that have none"
        )
        forward_user: bool = Field(
            default=False, description="send the client's user (or safety_identifier) as metadata.user_id"
        )

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """One vendor."""
        given = self._settings
        defaults = Defaults(given.base_url, given.version, given.beta, given.default_max_tokens)
        return [Anthropic(gateway.egress, defaults, forward_user=given.forward_user)]
