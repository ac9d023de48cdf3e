from collections.abc import Sequence

import pytest

from gatehook import Ranking, Target

FIRST, *OTHERS = (Target(f"m#{number}", "m", "mock", "m") for number in range(4))


def test_nobody_works_out_the_others_to_see_the_first() -> None:
    def others() -> Sequence[Target]:
        raise AssertionError("asked for")

    ranking = Ranking(FIRST, others)
    assert ranking
    assert ranking[0] is FIRST
    assert isinstance(ranking, Sequence)


def test_the_others_are_worked_out_once() -> None:
    asked = []

    def others() -> Sequence[Target]:
        asked.append(True)
        return OTHERS

    ranking = Ranking(FIRST, others)
    assert list(ranking) == [FIRST, *OTHERS]
    assert len(ranking) == 4
    assert ranking[2] is OTHERS[1]
    assert ranking[-1] is OTHERS[2]
    assert tuple(ranking[1:]) == tuple(OTHERS)
    assert OTHERS[2] in ranking
    assert asked == [True]


def test_one_alone_is_a_ranking_too() -> None:
    ranking = Ranking(FIRST, lambda: iter(()))
    assert list(ranking) == [FIRST]
    with pytest.raises(IndexError):
        ranking[1]
