"""`make bench`: every benchmark, one after the other, each in a process of its own; figures go into a CSV file.

python -m benchmarks results/bench.csv [NAME...]    (without names: all)
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import BENCH_FILE, BENCH_NAME, COLUMNS

NOT_TIMED = {"__init__", "__main__", "timing", "counting", "fidelity", "fidelity_detection", "fidelity_segmentation"}
NOT_TIMED |= {"models", "plot", "compare", "experiments"}
# The first two take hours on a CPU.
NOT_TIMED |= {"imagenet_shaped", "accelerator", "torchvision_on_cpu"}


def main(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(COLUMNS)
    timed = [each.stem for each in sorted(Path(__file__).parent.glob("*.py")) if each.stem not in NOT_TIMED]
    for name in names or timed:
        print(f"\n## benchmarks.{name}", flush=True)
        environment = os.environ | {BENCH_FILE: str(path), BENCH_NAME: name}
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True, env=environment)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), *sys.argv[2:])
