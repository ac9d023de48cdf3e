"""ComfyUI servers: a workflow is a model that makes pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from gatehook import CATALOG, FILES, Command, Section, Vendor, hookimpl
from gatehook_plugins.vendor_comfyui.vendor import ComfyVendor

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["VendorComfyUI"]


class VendorComfyUI:
    """Provides the vendor "comfyui"."""

    class Settings(Section):
        """[plugins.vendor_comfyui]."""

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's; the rest is set in the `options` of each deployment."""
        self._vendor: ComfyVendor | None = None

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """The one vendor."""
        return [self._of(gateway)]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """At the end, close sockets and stop runs."""
        return [self._of(gateway).lifespan]

    @hookimpl
    def register_commands(self, gateway: Gateway) -> Iterable[Command]:
        """`gatehook comfyui`."""
        from gatehook_plugins.vendor_comfyui.command import ServerCheck  # a gateway that serves asks for none

        check = ServerCheck(gateway, self._of(gateway))
        return [Command("comfyui", "Check the workflows against the servers that run them.", check.run)]

    def _of(self, gateway: Gateway) -> ComfyVendor:
        if self._vendor is None:
            services, folder = gateway.services, gateway.settings.path.parent
            self._vendor = ComfyVendor(gateway.egress, services[CATALOG], services.get(FILES), folder)
        return self._vendor
