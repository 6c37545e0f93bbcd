"""What the log says of speed and of waiting for input, by a clock of the test's own."""

import io

import pytest
from rich.console import Console

from tfvt.trainers import pace
from tfvt.trainers.pace import Rate, TimedBatches
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.log import RunLog


@pytest.fixture
def clock(monkeypatch):
    """`clock.now` in seconds, which only the test moves."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def batches_that_take(clock, seconds):
    for wait in seconds:
        clock.now += wait
        yield wait


def test_the_wait_for_batches_is_measured_where_they_are_fetched(clock):
    batches = TimedBatches(batches_that_take(clock, [0.5, 2, 4, 8]))
    assert next(batches) == 0.5
    clock.now += 1000  # the step
    assert batches.take_wait(1) == 0.5
    assert [next(batches), next(batches)] == [2, 4]
    assert batches.take_wait(2) == 6
    assert batches.take_wait(1) is None  # the engine's own iterator gave this one
    next(batches)
    assert batches.take_wait(2) is None  # or one of two
    assert list(batches) == []


def test_the_share_of_the_wait_is_that_of_the_time_in_steps(clock):
    rate = Rate()
    assert (rate.input_wait, rate.recent_input_wait, rate.steps_per_second) == (None, None, None)
    for waited in (1, 3):
        since = clock.now
        clock.now += 8
        rate.add(1, since, waited)
    assert (rate.input_wait, rate.recent_input_wait, rate.steps_per_second) == (4 / 16, 4 / 16, 2 / 16)
    for _ in range(pace.RECENT_CALLS):
        since = clock.now
        clock.now += 2
        rate.add(1, since, 1)
    assert (rate.input_wait, rate.recent_input_wait) == (54 / 116, 0.5)
    since = clock.now
    clock.now += 4  # the devices finish
    rate.add(0, since)
    assert rate.input_wait == 54 / 120
    rate.add(3, clock.now, None)
    assert (rate.input_wait, rate.recent_input_wait) == (None, None)


class NoTask:
    columns = ("top1",)


@pytest.mark.parametrize(("share", "words"), [(0.034, "input 3%"), (1.0, "input 100%"), (None, None)])
def test_the_live_line_shows_the_share(tmp_path, share, words):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160, color_system=None)
    log = RunLog(Run(tmp_path), NoTask(), console, is_chief=True, batch_size=8, num_steps=10)
    with log:
        log.show(4, "epoch 1/2", share)
    last = [line for line in text.getvalue().splitlines() if "epoch 1/2" in line][-1]
    assert "4/10 steps" in last
    assert (words in last) if words else ("input" not in last)
