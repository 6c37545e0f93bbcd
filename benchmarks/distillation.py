"""A small student with a teacher beside the same without, on the digits of `make demo`: validation top-1, three seeds.

python -m benchmarks.distillation [FOLDER]

It takes the records and the run that `make demo` left in FOLDER (default runs/demo), and makes them where they are
missing. The runs are those of `tfvt train --config digits_student`, one after another, in FOLDER/students. Those that
are there already are not trained again.
"""

import csv
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import record
from demo.images import write_folders

SEEDS = (0, 1, 2)
KINDS = ("alone", "soft", "hard")


def tfvt(*words):
    """Run a command quietly."""
    command = [Path(sys.executable).with_name("tfvt"), *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make_records(folder):
    """The demo's records in a folder, made if they are missing."""
    records = folder / "records"
    if not (records / "manifest.json").is_file():
        write_folders(folder / "images")
        tfvt("records", "convert", folder / "images", records)
    return records


def train(run, config, records, *flags):
    """Train, or continue, until the run is finished; its validation top-1."""
    if not (run / "recipe.yaml").is_file():
        tfvt("train", "--config", config, "--data.records", records, *flags, "--output", run)
    elif not (run / "final.keras").is_file():
        tfvt("train", "--resume", "--output", run)
    with (run / "metrics.csv").open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["validation_top1"])


def main(folder="runs/demo"):
    folder = Path(folder)
    records, teacher = make_records(folder), folder / "run"
    print(f"teacher  {train(teacher, 'digits_vt_resnet', records):.2%}")
    print(f"student {''.join(f'  seed {seed}' for seed in SEEDS)}    mean", flush=True)
    for kind in KINDS:
        taught = [] if kind == "alone" else [f"--distillation.teacher={teacher}", f"--distillation.kind={kind}"]
        runs = {seed: folder / "students" / f"{kind}{seed}" for seed in SEEDS}
        scores = [train(run, "digits_student", records, f"--seed={seed}", *taught) for seed, run in runs.items()]
        record("students", f"top-1, {kind}", [100 * score for score in scores], "%")
        cells = [f"{score:8.2%}" for score in (*scores, sum(scores) / len(scores))]
        print(f"{kind:8}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
