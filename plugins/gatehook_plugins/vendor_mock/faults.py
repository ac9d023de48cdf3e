"""What goes wrong, as the gateway would see it from a real vendor."""

import asyncio
from typing import Final, NoReturn

from gatehook import UpstreamError, upstream_error
from gatehook_plugins.vendor_mock.options import FaultOptions

__all__ = ["NAME", "fail", "silence", "strike"]

NAME: Final = "mock"


async def silence() -> NoReturn:
    """Never return; only cancelling ends it."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets this result")


async def strike(fault: FaultOptions) -> None:
    """Let a fault strike a stream. Returns only for a cut: then the stream has to end at once.

    Raises:
        GatewayError: for whatever a vendor's translation would raise.
    """
    match fault.kind:
        case "silence" | "stall":
            await silence()
        case "status":
            raise upstream_error(NAME, fault.status, fault.message, code=fault.code, retry_after=fault.retry_after)
        case "reset":
            raise UpstreamError(f"{NAME}: connection reset by peer")
        case "malformed":
            raise UpstreamError(f"{NAME}: what arrived is not valid JSON")
        case "cut":
            return


async def fail(fault: FaultOptions) -> NoReturn:
    """Let a fault strike a plain answer.

    Raises:
        GatewayError: for whatever a vendor's translation would raise.
    """
    await strike(fault)
    raise UpstreamError(f"{NAME}: the connection was cut in the middle of the answer")
