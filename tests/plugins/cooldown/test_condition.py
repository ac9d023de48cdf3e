"""The rules by which a deployment is given a rest: examples, and a model that knows no more than the book says."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gatehook_plugins.cooldown.condition import SOUND, Condition, Rules

RULES = Rules(failure_threshold=3, recovery_threshold=2, rest=30, longest_rest=100)
NOW = 1_000_000.0


def failed(condition: Condition, times: int = 1, now: float = NOW) -> Condition:
    for _ in range(times):
        condition = condition.failed(now, RULES)
    return condition


def test_failures_in_a_row_bring_a_rest_and_an_answer_between_them_does_not() -> None:
    assert not failed(SOUND, 2).is_resting(NOW)
    assert failed(SOUND, 3).is_resting(NOW + 29.9)
    assert not failed(SOUND, 3).is_resting(NOW + 30)
    assert not failed(failed(SOUND, 2).answered(NOW, RULES), 2).is_resting(NOW)


def test_each_rest_without_an_answer_between_is_twice_as_long_up_to_the_longest() -> None:
    condition, now, lengths = failed(SOUND, 3), NOW, []
    for _ in range(5):
        lengths.append(condition.until - now)
        now = condition.until
        condition = condition.failed(now, RULES)
    assert lengths == [30, 60, 100, 100, 100]
    assert condition.all_rests == 6


def test_on_trial_one_failure_is_enough_and_answers_in_a_row_end_it() -> None:
    rested = failed(SOUND, 3)
    then = rested.until
    assert rested.failed(then, RULES).is_resting(then + 1)
    assert rested.answered(then, RULES).on_trial
    assert rested.answered(then, RULES).failed(then, RULES).is_resting(then + 1)
    well = rested.answered(then, RULES).answered(then, RULES)
    assert well.is_sound
    assert not well.is_resting(then)


def test_what_ends_during_a_rest_began_before_it_and_is_no_news() -> None:
    resting = failed(SOUND, 3)
    assert resting.answered(NOW + 1, RULES) is resting
    assert resting.failed(NOW + 1, RULES) is resting


def test_checks_end_a_rest_early_but_the_next_is_longer_all_the_same() -> None:
    resting = failed(SOUND, 3)
    well = resting.checked_well(NOW + 1, RULES).checked_well(NOW + 2, RULES)
    assert not well.is_resting(NOW + 2)
    assert not well.on_trial
    again = failed(well, 3, NOW + 3)
    assert again.until - (NOW + 3) == 60
    assert failed(well.answered(NOW + 3, RULES), 3, NOW + 4).until - (NOW + 4) == 30


def test_a_check_that_succeeds_does_not_undo_failures_of_requests() -> None:
    assert failed(failed(SOUND, 2).checked_well(NOW, RULES)).is_resting(NOW)


def test_checks_that_fail_count_in_a_row_and_together_with_requests() -> None:
    condition = SOUND
    for _ in range(9):
        condition = condition.checked_badly(NOW, RULES).checked_badly(NOW, RULES).checked_well(NOW, RULES)
    assert condition.is_sound, "never three in a row, though nobody asked it anything"
    assert failed(SOUND, 2).checked_badly(NOW, RULES).is_resting(NOW)
    assert SOUND.checked_badly(NOW, RULES).answered(NOW, RULES).is_sound


def test_a_check_that_fails_during_a_rest_voids_the_proofs_before_it() -> None:
    resting = failed(SOUND, 3)
    flapping = resting.checked_well(NOW, RULES).checked_badly(NOW, RULES).checked_well(NOW, RULES)
    assert flapping.is_resting(NOW)
    assert flapping.until == resting.until
    assert not flapping.checked_well(NOW, RULES).is_resting(NOW)


def test_the_only_one_collects_failures_and_never_a_rest() -> None:
    condition = SOUND
    for _ in range(9):
        condition = condition.kept_on(NOW)
    assert condition.failures == 9
    assert not condition.is_resting(NOW)
    assert condition.answered(NOW, RULES).is_sound


def test_a_vendor_that_asks_to_be_left_alone_is_and_without_a_trial() -> None:
    told = SOUND.told_to_wait(7, NOW, RULES)
    assert told.is_resting(NOW + 6.9)
    assert not told.is_resting(NOW + 7)
    assert not told.on_trial
    assert told.failures == 0
    assert SOUND.told_to_wait(10_000, NOW, RULES).until == NOW + 100
    assert told.told_to_wait(3, NOW, RULES) is told


def test_a_clock_that_is_put_back_ends_rests_and_prolongs_none() -> None:
    hour = 3600.0
    resting = failed(SOUND, 3)
    assert resting.is_resting(NOW - 20), "clocks of nodes differ by so much"
    assert not resting.is_resting(NOW - hour)
    tried = resting.tried(NOW + 30, 10)
    assert tried.tried(NOW + 31, 10) is tried
    assert tried.tried(NOW - hour, 10).tried_until == NOW - hour + 10, "who tried it then is not waited for"
    asked = resting.told_to_wait(7, NOW - hour, RULES)
    assert (asked.is_resting(NOW - hour + 6), asked.is_resting(NOW - hour + 7)) == (True, False)
    assert failed(resting, 1, NOW - hour).until <= NOW - hour + RULES.longest_rest


def test_one_request_at_a_time_tries_it() -> None:
    rested = failed(SOUND, 3)
    tried = rested.tried(rested.until, 30)
    assert tried is not rested
    assert tried.tried(rested.until + 29, 30) is tried
    assert tried.tried(rested.until + 31, 30) is not tried, "the first was never heard of again"
    assert tried.let_go(tried.tried_until).tried(rested.until + 1, 30) is not tried
    assert SOUND.tried(NOW, 30) is SOUND, "nobody needs to try it"
    assert failed(SOUND, 3).tried(NOW + 1, 30).tried_until == 0, "not while it rests"


def test_only_who_tries_it_now_lets_another_one_try() -> None:
    rested = failed(SOUND, 3)
    first = rested.tried(rested.until, 30)
    second = first.tried(rested.until + 31, 30)
    assert second.let_go(first.tried_until) is second
    assert second.checked_well(rested.until + 32, RULES).tried_until == second.tried_until
    assert second.answered(rested.until + 32, RULES).tried_until == second.tried_until


Step = tuple[str, float]
KINDS = ["failed", "answered", "checked badly", "checked well", "wait"]


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0, 50)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_it_rests_exactly_when_a_naive_model_says_so(steps: list[Step], failures: int, recoveries: int) -> None:
    rules = Rules(failures, recoveries, 30, 100)
    condition, now = SOUND, NOW
    bad = missed = good = rests = 0
    until, trial = 0.0, False
    for kind, seconds in steps:
        now += seconds
        resting = now < until
        if kind == "wait":
            condition = condition.told_to_wait(20, now, rules)
            until = max(until, now + 20)
        elif kind in ("failed", "checked badly"):
            fail = condition.failed if kind == "failed" else condition.checked_badly
            condition = fail(now, rules)
            if kind == "checked badly" or not resting:
                good = 0
            if not resting:
                bad, missed = bad + (kind == "failed"), missed + (kind == "checked badly")
                if trial or bad + missed >= failures:
                    until, trial, rests = now + min(30 * 2**rests, 100), True, rests + 1
        else:
            step: Callable[..., Condition] = condition.answered if kind == "answered" else condition.checked_well
            condition = step(now, rules)
            if trial and (kind == "checked well" or not resting):
                good += 1
                if good >= recoveries:
                    bad, missed, good, until, trial = 0, 0, 0, 0.0, False
                    rests = 0 if kind == "answered" else rests
            elif kind == "answered" and not resting:
                bad = missed = rests = 0
            elif kind == "checked well" and not trial:
                missed = 0
        assert condition.is_resting(now) == (now < until)
        assert condition.on_trial == trial
        assert condition.rests == rests
        assert condition.strikes == bad + missed
