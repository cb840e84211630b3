"""The rhythm of an engine: the median of its steps, and how long it has made none."""

from __future__ import annotations

import pytest

from finery_kit.pace import Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def walk(pace: Pace, clock: Clock, *seconds: float) -> None:
    """Steps 1, 2, …, each after so many seconds."""
    pace.seen("running", 0, None)
    for step, pause in enumerate(seconds, start=1):
        clock.now += pause
        pace.seen("running", step, None)


def test_there_is_no_median_before_five_steps(clock: Clock) -> None:
    pace = Pace(clock)
    walk(pace, clock, 1, 1, 1, 1)
    assert pace.median_step_s is None
    walk(pace, clock, *[1] * 5)
    assert pace.median_step_s == 1


def test_one_slow_step_does_not_move_the_median(clock: Clock) -> None:
    pace = Pace(clock)
    walk(pace, clock, 2, 2, 2, 2, 100, 2)
    assert (pace.median_step_s, pace.quiet_s) == (2, 0)


def test_a_picture_of_several_steps_counts_each(clock: Clock) -> None:
    pace = Pace(clock)
    pace.seen("running", 0, None)
    for step in (10, 20, 30, 40, 50):
        clock.now += 5
        pace.seen("running", step, None)
    assert pace.median_step_s == 0.5


def test_the_same_picture_again_is_no_progress_and_another_message_is(clock: Clock) -> None:
    pace = Pace(clock)
    walk(pace, clock, 1)
    for _ in range(3):
        clock.now += 10
        pace.seen("running", 1, None)
    assert pace.quiet_s == 30
    pace.seen("running", 1, "validating")
    assert pace.quiet_s == 0


def test_beginning_anew_does_not_count_backwards(clock: Clock) -> None:
    pace = Pace(clock)
    walk(pace, clock, *[1] * 5)
    walk(pace, clock, 1, 1)
    assert pace.median_step_s == 1
