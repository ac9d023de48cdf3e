"""A trouble that lasts is told twice: when it begins and when it is over."""

import logging

__all__ = ["Trouble"]

log = logging.getLogger("gatehook.ledger")


class Trouble:
    """One kind of trouble."""

    def __init__(self, began: str, over: str) -> None:
        """What the log says at its beginning, before the error itself, and at its end."""
        self._began = began
        self._over = over
        self.lasts = False

    def begin(self, error: BaseException) -> None:
        """It is there."""
        if not self.lasts:
            self.lasts = True
            log.error("%s: %s", self._began, error or repr(error))

    def end(self) -> None:
        """It is gone, if it was there."""
        if self.lasts:
            self.lasts = False
            log.warning("%s", self._over)
