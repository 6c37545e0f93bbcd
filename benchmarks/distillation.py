"""A small student with a teacher beside the same without, on the digits of `make demo`: validation top-1, three seeds.

python -m benchmarks.distillation [FOLDER]

It takes the records and the run that `make demo` left in FOLDER (default runs/demo), and makes them where they are
missing. The runs are those of `tfvt train --config digits_student`, one after another.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from demo.images import write_folders

SEEDS = (0, 1, 2)
KINDS = {"alone": [], "soft": ["--distillation.kind=soft"], "hard": ["--distillation.kind=hard"]}


def tfvt(*words):
    """Run a command quietly."""
    command = [Path(sys.executable).with_name("tfvt"), *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def last_row(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def prepare(folder):
    """The records and the teacher's run."""
    records, teacher = folder / "records", folder / "run"
    if not (records / "manifest.json").is_file():
        write_folders(folder / "images")
        tfvt("records", "convert", folder / "images", records)
    if not (teacher / "final.keras").is_file():
        tfvt("train", "--config", "digits_vt_resnet", "--data.records", records, "--output", teacher)
    return records, teacher


def main(folder="runs/demo"):
    records, teacher = prepare(Path(folder))
    print(f"teacher: top-1 {float(last_row(teacher)['validation_top1']):.2%}")
    print(f"seed  {''.join(f'{kind:>8}' for kind in KINDS)}", flush=True)
    scores, rates = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in SEEDS:
            rows = []
            for kind, flags in KINDS.items():
                run = Path(temporary) / f"{kind}{seed}"
                taught = [f"--distillation.teacher={teacher}", *flags] if flags else []
                arguments = ["--config", "digits_student", "--data.records", records, "--seed", seed, *taught]
                tfvt("train", *arguments, "--output", run)
                rows.append(last_row(run))
            scores.append([float(row["validation_top1"]) for row in rows])
            rates.append([float(row["images_per_second"]) for row in rows])
            print(f"{seed:4}  {''.join(f'{score:8.2%}' for score in scores[-1])}", flush=True)
    print(f"mean  {''.join(f'{score:8.2%}' for score in np.mean(scores, 0))}")
    print(f"rate  {''.join(f'{rate:8.0f}' for rate in np.median(rates, 0))} images/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
