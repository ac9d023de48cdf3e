"""Translated answers that keep what they were made of, for clients who speak the vendor's own dialect.

A translation loses what OpenAI's shape has no place for, such as citations, or the order of thoughts and texts. All of
the gateway works on the translation; where nobody has changed that, a client who reads the original gets the original.
"""

from collections.abc import Iterable

from gatehook.model import Chunk, Completion

__all__ = ["TranslatedChunks", "TranslatedCompletion"]


class TranslatedCompletion(Completion):
    """A whole answer, and the body that says the same to the clients of one surface, under the public model name."""

    __slots__ = ("original", "surface")

    def __init__(self, translated: Completion, original: bytes, surface: str) -> None:
        """`surface` is the name of the one (`Call.surface`) whose clients read `original`."""
        super().__init__(translated.data, usage=translated.usage)
        self.original = original
        self.surface = surface


class TranslatedChunks(list[Chunk]):
    """A batch of chunks, and the framed events that say the same to the clients of one surface; either may be empty.

    All batches of a stream are of this kind, or none; the originals tell the end, too.
    """

    __slots__ = ("original", "surface")

    def __init__(self, translated: Iterable[Chunk], original: bytes, surface: str) -> None:
        """`surface` is the name of the one (`Call.surface`) whose clients read `original`."""
        super().__init__(translated)
        self.original = original
        self.surface = surface
