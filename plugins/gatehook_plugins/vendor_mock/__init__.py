"""A mock of a model: answers, tool calls, delays and failures as the settings say, without any network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import FILES, Section, Vendor, hookimpl
from gatehook_plugins.vendor_mock.vendor import MockVendor

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["VendorMock"]


class VendorMock:
    """Vendor "mock". What a deployment answers is told by its `options`; see `options.Options`."""

    class Settings(Section):
        """[plugins.vendor_mock]."""

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's; the rest is set in the `options` of each deployment."""

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """One vendor; its pictures are kept where files are, if they are kept."""
        return [MockVendor(gateway.services.get(FILES))]
