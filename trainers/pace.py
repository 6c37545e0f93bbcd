"""How fast the steps run, and how long they wait for input."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

RECENT_CALLS = 50  # of the engine, which the live line is about


class TimedBatches:
    """Batches for an engine, and how long it waited for them."""

    def __init__(self, batches: Iterator) -> None:
        self.batches = batches
        self.fetched = 0
        self.seconds = 0.0

    def __iter__(self) -> "TimedBatches":
        return self

    def __next__(self) -> Any:
        began = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - began
        self.fetched += 1
        return batch

    def iterator_for(self, count: int) -> Any:
        """The engine's own iterator, for a compiled call of `count` steps: what it waits there stays unknown."""
        return self.batches.iterator_for(count)

    def take_wait(self, count: int) -> float | None:
        """The seconds since the last call; None unless just `count` batches were fetched meanwhile."""
        seconds = self.seconds if self.fetched == count else None
        self.fetched, self.seconds = 0, 0.0
        return seconds


class Rate:
    """Steps per second, and the share of that time in which they waited for input: of training steps only."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.waited: float | None = 0.0  # None as soon as it is unknown for a step
        self.recent: deque[tuple[float, float | None]] = deque(maxlen=RECENT_CALLS)

    def add(self, steps: int, since: float, waited: float | None = 0.0) -> None:
        """Count `steps` steps that began at the time `since` (of `time.perf_counter`) and end now.

        They waited for input so many seconds of it; None: nobody knows.
        """
        seconds = time.perf_counter() - since
        self.steps += steps
        self.seconds += seconds
        self.waited = None if self.waited is None or waited is None else self.waited + waited
        self.recent.append((seconds, waited))

    @property
    def steps_per_second(self) -> float | None:
        """None when nothing was counted."""
        return self.steps / self.seconds if self.steps else None

    @property
    def input_wait(self) -> float | None:
        """Share of the time in 0..1; None when nothing was counted, or the wait is unknown."""
        return self.waited / self.seconds if self.steps and self.waited is not None else None

    @property
    def recent_input_wait(self) -> float | None:
        """`input_wait` over the last calls of the engine."""
        if not self.recent or any(waited is None for _, waited in self.recent):
            return None
        return sum(waited for _, waited in self.recent) / sum(seconds for seconds, _ in self.recent)
