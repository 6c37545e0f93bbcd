"""Times that can be compared on a noisy machine: calls alternate in one process, medians of their ratios count."""

import statistics
import time
from collections.abc import Callable


def alternate(
    calls: dict[str, Callable[[], object]], rounds: int = 15, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call in each of `rounds` rounds; every round runs all calls, after one that is not counted.

    With `time.process_time` as the clock they are the processor's, of all threads: other jobs hardly change them.
    """
    seconds = {name: [] for name in calls}
    for round_number in range(rounds + 1):
        for name, call in calls.items():
            started = clock()
            call()
            if round_number:
                seconds[name].append(clock() - started)
    return seconds


def median_ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times longer `slow` takes than `fast`: the median over the rounds of their ratio in one round."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def median_ms(seconds: list[float]) -> float:
    """Median in milliseconds."""
    return 1000 * statistics.median(seconds)
