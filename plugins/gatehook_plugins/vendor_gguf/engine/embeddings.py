"""Embeddings: texts in, vectors out. Texts of several requests share a step."""

import asyncio
import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from gatehook_plugins.vendor_gguf.engine.errors import Busy, EngineError
from gatehook_plugins.vendor_gguf.engine.llama import Context

__all__ = ["Embedder"]

_WAITING: Final = 4096
"""The most texts that may wait."""


class _Text:
    """A text to be embedded."""

    def __init__(self, tokens: Sequence[int], result: "asyncio.Future[Any]") -> None:
        self.tokens = tokens
        self.result = result


class Embedder:
    """Computes embeddings on a context, in a thread of its own."""

    def __init__(self, context: Context, *, sequences: int) -> None:
        """Start the thread; call it on the event loop. `sequences` is the most texts of a step."""
        self._context = context
        self._sequences = sequences
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Text] = deque()
        self._come = threading.Condition()
        self._closing = False
        self.active = 0
        """Texts of the step that is computed now."""
        self._steps = 0
        self._thread = threading.Thread(target=self._run, name="embed", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    @property
    def progress(self) -> int | None:
        """How many steps were computed so far; None if there is nothing to do."""
        return self._steps if self.active or self._waiting else None

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[Any]:
        """A vector of length 1 (a NumPy array) for each prompt, none of which has more tokens than a step.

        Raises:
            Busy: too many wait.
            EngineError: the library fails.
        """
        if self._waiting and len(self._waiting) + len(prompts) > _WAITING:
            raise Busy(len(self._waiting), 1)
        texts = [_Text(prompt, self._loop.create_future()) for prompt in prompts]
        with self._come:
            self._waiting += texts
            self._come.notify()
        try:
            return await asyncio.gather(*(text.result for text in texts))
        finally:
            for text in texts:  # when the client has left, those that still wait are skipped
                text.result.cancel()

    async def close(self) -> None:
        """End the thread."""
        with self._come:
            self._closing = True
            self._come.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            with self._come:
                while not self._waiting and not self._closing:
                    self._come.wait()
                if self._closing:
                    return
                texts = self._next()
            if texts:
                self._loop.call_soon_threadsafe(_tell, texts, self._computed(texts))
            self._steps += 1
            self.active = 0

    def _next(self) -> list[_Text]:
        """The texts of the next step: as many, from the first on, as fit into it."""
        texts: list[_Text] = []
        room = self._context.size
        while self._waiting and len(texts) < self._sequences and len(self._waiting[0].tokens) <= room:
            text = self._waiting.popleft()
            if not text.result.cancelled():
                texts.append(text)
                room -= len(text.tokens)
        self.active = len(texts)
        return texts

    def _computed(self, texts: Sequence[_Text]) -> list[Any] | EngineError:
        try:
            return self._compute(texts)
        except Exception as error:  # noqa: BLE001  # a fault of ours ends these texts, not the engine
            traceback.print_exc(file=sys.stderr)
            return EngineError(f"the engine failed: {type(error).__name__}: {error}")

    def _compute(self, texts: Sequence[_Text]) -> list[Any] | EngineError:
        self._context.clear()
        filled = 0
        for sequence, text in enumerate(texts):
            filled = self._context.put(filled, sequence, 0, text.tokens, output=True)
        self._context.output[:filled] = 1  # all are pooled
        if code := self._context.compute(filled):
            return EngineError(f"the embeddings could not be computed: llama.cpp gave {code}")
        return [_normalised(self._context.embedding(sequence)) for sequence in range(len(texts))]


def _normalised(vector: Any) -> Any:
    import numpy as np

    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _tell(texts: Sequence[_Text], results: list[Any] | EngineError) -> None:
    for at, text in enumerate(texts):
        if text.result.done():
            continue
        if isinstance(results, EngineError):
            text.result.set_exception(results)
        else:
            text.result.set_result(results[at])
