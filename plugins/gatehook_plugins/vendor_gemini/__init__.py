"""Google's Gemini models, through the Gemini API's own wire format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import Section, Vendor, hookimpl
from gatehook_plugins.vendor_gemini.vendor import Gemini

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["VendorGemini"]


class VendorGemini:
    """The vendor `gemini`: chats, text completions and embeddings.

    A deployment's `options` may hold `safety_settings`, `json_schema`, `function_ids`, `reasoning_effort`,
    `include_thoughts` and `task_type`; see `options.py`.
    """

    class Settings(Section):
        """[plugins.vendor_gemini]."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """The one vendor."""
        return [Gemini(gateway.egress)]
