"""Local models: GGUF files, each loaded on demand into a process of its own that all workers share.

The processes of models, and the one that keeps them (the host), are modules of this package too. They must not hold the
gateway in memory, so the plugin is imported only when `VendorGGUF` is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatehook_plugins.vendor_gguf.plugin import VendorGGUF

__all__ = ["VendorGGUF"]


def __getattr__(name: str) -> Any:
    if name != "VendorGGUF":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gatehook_plugins.vendor_gguf.plugin import VendorGGUF

    return VendorGGUF
