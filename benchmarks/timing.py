"""Times that can be compared on a noisy machine: calls alternate in one process, medians of their ratios count.

Every figure that a benchmark prints goes through here. `make bench` names a CSV file in the environment, and each
figure is then a row of it as well.
"""

import csv
import datetime
import functools
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BENCH_FILE, BENCH_NAME = "TFVT_BENCH_FILE", "TFVT_BENCH_NAME"  # set by benchmarks/__main__.py
COLUMNS = (
    "benchmark", "figure", "quantity", "value", "spread", "rounds", "unit", "machine", "versions", "date",
)  # fmt: skip
PACKAGES = ("tfvt", "tensorflow", "keras", "numpy", "jax", "torch", "transformers", "keras-hub", "tf-models-official")


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


def median_ratio(seconds: dict[str, list[float]], slow: str, fast: str, figure: str = "") -> float:
    """How many times longer `slow` takes than `fast`: the median over the rounds of their ratio in one round.

    Args:
        seconds: what `alternate` gives.
        slow, fast: two of its calls; one and the same gives 1, which is no figure.
        figure: what was measured, as the CSV file names it; with the two calls it is unique in its benchmark.
    """
    ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    if slow != fast:
        record(figure, f"time of {slow} / {fast}", ratios, "ratio")
    return statistics.median(ratios)


def median_ms(seconds: list[float]) -> float:
    """Median in milliseconds."""
    return 1000 * statistics.median(seconds)


def record(figure: str, quantity: str, values: Sequence[float], unit: str) -> None:
    """Append a figure to the CSV file that `make bench` names: the median of `values` and their interquartile range."""
    path = os.environ.get(BENCH_FILE)
    if path is None:
        return
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (0, 0, 0)
    cells = (
        os.environ[BENCH_NAME], figure, quantity, f"{statistics.median(values):.6g}", f"{high - low:.3g}", len(values),
        unit, machine(), versions(), datetime.date.today().isoformat(),
    )  # fmt: skip
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(cells)


@functools.cache
def machine() -> str:
    """The processor and how many of its cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{model[1] if model else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@functools.cache
def versions() -> str:
    """Of Python and of what is installed of `PACKAGES`."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
