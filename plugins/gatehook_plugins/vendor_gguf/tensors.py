"""How many bytes a tensor takes in a GGUF file."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["tensor_size"]

_BLOCKS: Final[Mapping[int, tuple[int, int]]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""By ggml's types: how many numbers a block has, and how many bytes."""


def tensor_size(kind: int, dimensions: Sequence[int]) -> int:
    """Bytes of a tensor; 1 for a type that is not known here, so that a whole file never looks cut."""
    numbers, size = _BLOCKS.get(kind, (0, 0))
    return math.prod(dimensions) // numbers * size if numbers else 1
