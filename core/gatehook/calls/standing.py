"""The rate-limit headers of answers whose call no limiter was asked to admit; telling them charges nothing."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from aiohttp import web

from gatehook.awaiting import awaited
from gatehook.calls.ready import header_lines
from gatehook.calls.stages import Concerns, authenticate
from gatehook.errors import GatewayError, WrongResultError
from gatehook.failures import is_failure
from gatehook.model import Principal
from gatehook.protocols import TellingLimiter

__all__ = ["standing", "standing_if_known", "tells"]

log = logging.getLogger("gatehook")

_PATIENCE: Final = 2.0
"""Seconds to wait for a limiter or an authenticator: an answer must not be late for the sake of its headers."""
_FAMILY: Final = "x-ratelimit-"


async def standing(limiters: Sequence[TellingLimiter], principal: Principal) -> dict[str, str]:
    """The headers of all limiters; what cannot be told in time is left out, which is no error."""
    found: dict[str, str] = {}
    for limiter in limiters:
        try:
            async with asyncio.timeout(_PATIENCE):
                told = await limiter.standing(principal)
            found |= _headers(limiter, told)
        except GatewayError:
            continue
        except BaseException as error:
            if not is_failure(error):
                raise
            # The answer is ready, and goes out without these headers.
            log.exception("%s could not tell how a caller stands", type(limiter).__name__)
    return found


def _headers(limiter: TellingLimiter, told: Mapping[str, str]) -> Mapping[str, str]:
    """What one limiter has told, checked: anything but headers would break the answer.

    Raises:
        WrongResultError: it is not a mapping of texts. ValueError: a header would break out of its line.
    """
    if not isinstance(told, Mapping) or not all(type(one) is str for pair in told.items() for one in pair):
        raise WrongResultError(limiter, "standing", told, "headers: texts by names")
    header_lines(told)
    return told


async def standing_if_known(concerns: Concerns, request: web.BaseRequest) -> dict[str, str]:
    """The same for a request that needs no credential (the path is open, or unknown); {} if it has no valid one."""
    if not concerns.telling:
        return {}
    try:
        async with asyncio.timeout(_PATIENCE):
            principal = await awaited(authenticate(concerns.authenticators, request))
    except (GatewayError, TimeoutError):
        return {}
    except BaseException as error:
        if not is_failure(error):
            raise
        log.exception("it cannot be told who asks for %s", request.path)
        return {}
    return await standing(concerns.telling, principal)


def tells(headers: Iterable[str]) -> bool:
    """Whether there are rate-limit headers among these names already, put there by a limiter that was asked."""
    return any(name.lower().startswith(_FAMILY) for name in headers)
