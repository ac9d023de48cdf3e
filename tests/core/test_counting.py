"""Messages say "1 model" and "2 models"."""

import pytest

from gatehook import counted


@pytest.mark.parametrize(("number", "words"), [(0, "0 models"), (1, "1 model"), (2, "2 models")])
def test_one_thing_is_no_plural(number: int, words: str) -> None:
    assert counted(number, "model") == words
