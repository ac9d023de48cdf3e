"""AWS's binary event stream (application/vnd.amazon.eventstream), parsed by botocore, which checks both checksums."""

from collections.abc import Iterator
from typing import Any

from gatehook import MalformedJSON, Target, decode
from gatehook_bedrock.failure import exception, garbled, told

__all__ = ["Events"]


class Events:
    """An incremental parser: bytes in, events out, wherever the bytes are cut."""

    def __init__(self, target: Target) -> None:
        from botocore.eventstream import EventStreamBuffer

        self._buffer = EventStreamBuffer()
        self._target = target

    def feed(self, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        """The type and the payload of each event that `data` completes.

        Raises:
            GatewayError: an exception arrived instead of an event, a checksum is wrong, or it is no event at all.
        """
        from botocore.eventstream import ParserError

        self._buffer.add_data(data)
        while True:
            try:
                message = next(self._buffer, None)
            except ParserError as error:
                raise garbled(f"the event stream is damaged: {error}") from None
            except (KeyError, ValueError, IndexError) as error:
                raise garbled(f"the event stream is damaged: {type(error).__name__}") from None
            if message is None:
                return
            yield self._event(message.headers, message.payload)

    def _event(self, headers: dict[str, Any], payload: bytes) -> tuple[str, dict[str, Any]]:
        kind = headers.get(":message-type")
        if kind == "exception":
            raise exception(str(headers.get(":exception-type", "")), payload, self._target)
        if kind == "error":
            raise told(str(headers.get(":error-code", "")), str(headers.get(":error-message", "")), self._target)
        try:
            data = decode(payload)
        except MalformedJSON as error:
            raise garbled(f"an event is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise garbled("an event is not an object")
        return str(headers.get(":event-type", "")), data
