"""kill -9 of training at random moments: `python tests/trainers/kills.py --seed 3 --kills 20`.

Prints one line a run and ends with status 1 if one of them differs from the run that nobody killed.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from processes import train_command


@dataclass
class KilledRun:
    """A finished run, and the seconds after which its processes were killed."""

    folder: Path
    moments: list[float] = field(default_factory=list)


def kill_and_resume(config, place, seed: int, kills: int, longest: float = 20.0) -> list[KilledRun]:
    """Train `config` in folders below `place`, with that many processes killed, and each run taken to its end.

    A moment is drawn from 0 to `longest` seconds after a process's start, so that imports, the taking of the folder,
    steps, evaluations, saving and the writing of the model are hit. A run that ends before its moment is done, and
    another one begins.
    """
    draw = random.Random(seed)
    runs = [KilledRun(Path(place) / f"killed-{seed}-0")]
    left = kills
    while True:
        run = runs[-1]
        begun = (run.folder / "recipe.yaml").exists()
        command = train_command(None, run.folder, "--resume") if begun else train_command(config, run.folder)
        moment = draw.uniform(0, longest)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate(timeout=moment if left else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            run.moments.append(round(moment, 2))
            left -= 1
            continue
        if process.returncode:
            raise AssertionError(f"{run}: {output}")
        if not left:
            return runs
        runs.append(KilledRun(Path(place) / f"killed-{seed}-{len(runs)}"))


def main() -> int:
    from conftest import SMALL_RECIPE
    from small_records import write_small_records
    from test_resume import logged, newest, sha256_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    call = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        records = write_small_records(Path(place) / "records")
        config = Path(place) / "small.yaml"
        config.write_text(SMALL_RECIPE.replace("data:\n", f"data:\n  records: {records}\n"), encoding="utf-8")
        reference = Path(place) / "reference"
        started = time.perf_counter()
        subprocess.run(train_command(config, reference), check=True, capture_output=True)
        runs = kill_and_resume(config, place, call.seed, call.kills, longest=1.1 * (time.perf_counter() - started))
        different = 0
        for run in runs:
            equal = sha256_of(newest(run.folder)) == sha256_of(newest(reference))
            equal &= logged(run.folder) == logged(reference)
            different += not equal
            print(f"{'equal' if equal else 'DIFFERENT'} after kills at {run.moments} s")
    print(f"seed {call.seed}: {sum(len(run.moments) for run in runs)} kills, {len(runs)} runs, {different} differences")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
