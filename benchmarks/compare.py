"""`make bench-compare OLD=a.csv NEW=b.csv`: which figures of two runs of `make bench` differ beyond noise.

python -m benchmarks.compare OLD NEW

A figure is a median over rounds. The standard error of a median of n values with interquartile range s is about
1.253 * (s / 1.349) / sqrt(n). Two figures differ when they are more than ERRORS such errors apart, both runs' errors
together, and by more than FLOOR of the old one: the spread within one process says nothing of what differs from process
to process, such as where memory lies. A figure of a single value (memory, an accuracy) has the floor alone.
"""

import csv
import math
import sys
from pathlib import Path

ERRORS, FLOOR = 3.0, 0.03


def read(path):
    """The figures of a file: (benchmark, figure, quantity, unit) -> row."""
    with open(path, newline="", encoding="utf-8") as file:
        return {tuple(row[k] for k in ("benchmark", "figure", "quantity", "unit")): row for row in csv.DictReader(file)}


def standard_error(row):
    return 1.253 / 1.349 * float(row["spread"]) / math.sqrt(int(row["rounds"]))


def change(old, new):
    """Relative to the old value."""
    before, after = float(old["value"]), float(new["value"])
    return after / before - 1 if before else math.inf


def differ(old, new):
    """Whether two rows of one figure differ beyond noise."""
    before, after = float(old["value"]), float(new["value"])
    noise = ERRORS * math.hypot(standard_error(old), standard_error(new))
    return abs(after - before) > max(noise, FLOOR * abs(before))


def report(old, new):
    """Lines: the figures that differ, the largest change first, then how many there are of each kind."""
    both = [key for key in new if key in old]
    changes = {key: change(old[key], new[key]) for key in both if differ(old[key], new[key])}
    lines = []
    for key in sorted(changes, key=lambda key: -abs(changes[key])):
        values = f"{old[key]['value']} -> {new[key]['value']}"
        lines.append(f"{100 * changes[key]:+7.1f} %  {values} {key[3]}  {key[0]}: {key[1]}: {key[2]}")
    lines.append(f"{len(changes)} of {len(both)} figures changed beyond noise")
    for name, figures, others in (("OLD", old, new), ("NEW", new, old)):
        alone = [key for key in figures if key not in others]
        lines += [f"only in {name}: {key[0]}: {key[1]}: {key[2]}" for key in alone]
    for column in ("machine", "versions"):
        values = [sorted({row[column] for row in figures.values()}) for figures in (old, new)]
        if values[0] != values[1]:
            lines.append(f"{column}: {'; '.join(values[0])} -> {'; '.join(values[1])}")
    return lines


if __name__ == "__main__":
    print("\n".join(report(*(read(Path(path)) for path in sys.argv[1:3]))))
