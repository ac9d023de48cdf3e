"""How callers stand with their limits, on answers that no limiter was asked about; nothing is charged for them."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from aiohttp import web

from gatehook.awaiting import awaited
from gatehook.calls.ready import header_lines
from gatehook.calls.stages import Concerns, authenticate
from gatehook.errors import GatewayError, WrongResultError
from gatehook.model import Principal
from gatehook.protocols import TellingLimiter

__all__ = ["standing", "standing_if_known", "tells"]

log = logging.getLogger("gatehook")

_PATIENCE: Final = 2.0
"""Seconds that anybody is waited for: an answer is not to be late for the sake of its headers."""
_FAMILY: Final = "x-ratelimit-"


async def standing(limiters: Sequence[TellingLimiter], principal: Principal) -> dict[str, str]:
    """The headers of all limiters that know; what cannot be told in time is left out, and no error."""
    found: dict[str, str] = {}
    for limiter in limiters:
        try:
            async with asyncio.timeout(_PATIENCE):
                told = await limiter.standing(principal)
            found |= _headers(limiter, told)
        except GatewayError:
            continue
        except (Exception, SystemExit):  # the answer is there, and goes out without
            log.exception("%s could not tell how a caller stands", type(limiter).__name__)
    return found


def _headers(limiter: TellingLimiter, told: Mapping[str, str]) -> Mapping[str, str]:
    """What one of them has told, if it may go out: it would break the answer otherwise.

    Raises:
        WrongResultError: it is something else than headers. ValueError: one would break out of its line.
    """
    if not isinstance(told, Mapping) or not all(type(one) is str for pair in told.items() for one in pair):
        raise WrongResultError(limiter, "standing", told, "headers: texts by names")
    header_lines(told)
    return told


async def standing_if_known(concerns: Concerns, request: web.BaseRequest) -> dict[str, str]:
    """The same for whoever asks for what is not there, or open to everybody; {} if nobody knows who that is."""
    if not concerns.telling:
        return {}
    try:
        async with asyncio.timeout(_PATIENCE):
            principal = await awaited(authenticate(concerns.authenticators, request))
    except (GatewayError, TimeoutError):
        return {}
    except (Exception, SystemExit):
        log.exception("it cannot be told who asks for %s", request.path)
        return {}
    return await standing(concerns.telling, principal)


def tells(headers: Iterable[str]) -> bool:
    """Whether limits are told among headers of these names already: by a limiter that was asked."""
    return any(name.lower().startswith(_FAMILY) for name in headers)
