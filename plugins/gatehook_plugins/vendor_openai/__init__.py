"""Any server that speaks OpenAI's API: OpenAI itself, vLLM, llama.cpp's server, Ollama, Groq, Mistral."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import FILES, Section, Vendor, hookimpl
from gatehook_plugins.vendor_openai.vendor import OpenAIVendor

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["VendorOpenAI"]


class VendorOpenAI:
    """Provides the vendor "openai"."""

    class Settings(Section):
        """[plugins.vendor_openai]."""

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""

    @hookimpl
    def register_vendors(self, gateway: "Gateway") -> Iterable[Vendor]:
        """The one vendor."""
        return [OpenAIVendor(gateway.egress, gateway.services.get(FILES))]
