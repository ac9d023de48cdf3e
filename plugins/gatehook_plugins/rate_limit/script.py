"""The Lua scripts that decide and settle in Redis."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Script", "script"]


class Script:
    """A Lua script, and the name that Redis knows it by."""

    __slots__ = ("_sha", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: "Redis", keys: Sequence[bytes], arguments: Sequence[str | int]) -> Any:
        """What it answers.

        Raises:
            redis.RedisError, OSError: there is no answer.
        """
        from redis.exceptions import NoScriptError

        try:
            return await client.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:  # a server that was started since; nothing has been done yet
            return await client.eval(self._text, len(keys), *keys, *arguments)


def script(name: str) -> Script:
    """`NAME.lua` of this package, behind what all scripts share."""
    folder = Path(__file__).parent
    return Script("\n".join((folder / f"{one}.lua").read_text("utf-8") for one in ("windows", name)))
