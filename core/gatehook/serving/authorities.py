"""The system's certificates, read beside the start of the program instead of in it.

aiohttp makes two TLS contexts as soon as it is imported, and has both read all authorities that the system trusts,
which takes 20 to 40 ms and 1 MB for each. Here one of them reads in a thread meanwhile, and the other, which trusts
whatever it is shown, does not.
"""

import contextlib
import ssl
import threading
from collections.abc import Iterator

__all__ = ["Reading", "read_aside"]


class Reading(threading.Thread):
    """Has contexts read the system's certificates; `join` before any of them is used, and before a fork."""

    def __init__(self) -> None:
        super().__init__(name="certificates", daemon=True)
        self.contexts: list[ssl.SSLContext] = []

    def run(self) -> None:
        """Read: OpenSSL does it without Python's lock."""
        for context in self.contexts:
            if context.verify_mode is not ssl.CERT_NONE:
                context.set_default_verify_paths()


@contextlib.contextmanager
def read_aside() -> Iterator[Reading]:
    """Contexts that are made inside get the system's certificates after it, in the thread that is given.

    For imports at the start, while there is only one thread: it changes a class of the standard library.
    """
    reading = Reading()

    def later(context: ssl.SSLContext) -> None:
        reading.contexts.append(context)

    ssl.SSLContext.set_default_verify_paths = later  # type: ignore[method-assign, assignment]
    try:
        yield reading
    finally:
        del ssl.SSLContext.set_default_verify_paths  # what it inherits shows again
        reading.start()
