"""Logs trouble that lasts twice only: when it begins, and when it is over."""

import logging

__all__ = ["Trouble"]

log = logging.getLogger("gatehook.ledger")


class Trouble:
    """One kind of trouble."""

    def __init__(self, began: str, over: str) -> None:
        """Args: what is logged at its beginning, followed by the error, and at its end."""
        self._began = began
        self._over = over
        self.lasts = False

    def begin(self, error: BaseException) -> None:
        """Note that it is there."""
        if not self.lasts:
            self.lasts = True
            log.error("%s: %s", self._began, error or repr(error))

    def end(self) -> None:
        """Note that it is not there, or not any more."""
        if self.lasts:
            self.lasts = False
            log.warning("%s", self._over)
