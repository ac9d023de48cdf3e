"""Failures of models, and the back-off after them: how long a model that failed is not tried again."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gatehook_plugins.vendor_gguf.messages import Spec

__all__ = ["EngineFailed", "Failure", "Failures", "Refusal"]

_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
_OLD: Final = 60.0
"""After so many seconds of service, earlier failures do not count."""
_FOLDERS: Final = re.compile(r"(?<![\w./~-])~?/(?:[^\s/:'\"|]+/)*(?=[^\s/])")
"""Those before the name of a file, wherever in a text."""


class Refusal(Exception):
    """A model cannot be had now; `code` and the message go to the client."""

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        """Seconds."""


class EngineFailed(Exception):
    """A model's process could not load it, or ended without being asked to."""

    def __init__(self, reason: str, *, served: float | None = None) -> None:
        """Say why.

        Args:
            reason: continues a sentence that begins with the model's name.
            served: for how many seconds it served; None if it was never loaded.
        """
        super().__init__(reason)
        self.reason = reason
        self.served = served


class Failure:
    """The last failure of one model."""

    def __init__(self, spec: Spec, reason: str, times: int, until: float, *, loading: bool) -> None:
        self.spec = spec
        self.reason = reason
        """For clients: no folders."""
        self.times = times
        """How often the model failed in a row."""
        self.until = until
        """The loop's time before which it is not tried again."""
        self.loading = loading
        """Whether it could not even be loaded."""

    def refusal(self, now: float) -> Refusal:
        """The refusal for those who want the model."""
        code, how = ("model_load_failed", "cannot be loaded") if self.loading else ("engine_crashed", "has failed")
        wait = max(0.0, self.until - now)
        return Refusal(code, f"the model {self.spec.name!r} {how}: it {self.reason}", retry_after=max(1.0, wait))


class Failures:
    """Models that failed. After a first crash a model may start again at once; then each wait is twice the last."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}
        self.counts: Counter[str] = Counter()
        """How often each model has failed, by name; never forgotten."""

    def note(self, spec: Spec, failed: EngineFailed, now: float) -> Failure:
        """Count a failure; gives it."""
        self.counts[spec.name] += 1
        before = self._failures.get(spec.name)
        fresh = before is None or before.spec.content != spec.content or (failed.served or 0.0) > _OLD
        times = 1 if fresh or before is None else before.times + 1
        loading = failed.served is None
        doublings = times - 1 if loading else times - 2
        wait = min(_FIRST_WAIT * 2.0 ** min(doublings, 10), _LONGEST_WAIT) if doublings >= 0 else 0.0
        reason = _without_folders(failed.reason, spec)
        failure = self._failures[spec.name] = Failure(spec, reason, times, now + wait, loading=loading)
        return failure

    def check(self, spec: Spec, now: float) -> None:
        """Refuse a model that failed a moment ago, unless its file or its options have changed since.

        Raises:
            Refusal: it failed a moment ago.
        """
        failure = self._failures.get(spec.name)
        if failure is not None and now < failure.until and failure.spec.content == spec.content:
            raise failure.refusal(now)

    def forget(self, name: str) -> None:
        """Allow this model to be tried again at once."""
        self._failures.pop(name, None)

    def all(self) -> Iterable[Failure]:
        """Those that failed and have not been forgotten."""
        return self._failures.values()


def _without_folders(reason: str, spec: Spec) -> str:
    """For clients, who need not know where things lie on this machine; the log has it in full."""
    return _FOLDERS.sub("", reason.replace(f"{Path(spec.options.path).parent}/", ""))
