"""Conversions killed at random moments: `python kill_conversions.py --seed 7 --kills 20 [--overwrite]`.

Each is a process of its own that gets SIGKILL some time after it took its lock. Run again, it continues; when one comes
to its end, its files are compared with those of a conversion that nobody killed, and the next starts from nothing, or
with --overwrite over the records of other images. It prints the number of kills and of files that differ.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from image_files import contents, write_folder

COMMAND = "import sys; from tfvt.tfrecords_tools.cli import main; sys.exit(main(sys.argv[1:]))"


def convert(source, output, *options, kill_after=None) -> float | None:
    """Seconds from the lock to the end, or None if it was killed before."""
    lock = output / ".partial" / "lock"
    lock.unlink(missing_ok=True)  # of the run that was killed
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "convert", str(source), str(output), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not lock.exists() and process.poll() is None:
        time.sleep(0.001)
    start = time.monotonic()
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return time.monotonic() - start if process.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=1000, help="of each class and split")
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    numbers = random.Random(arguments.seed)
    options = ["--shards", "12", *(["--overwrite"] if arguments.overwrite else [])]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = write_folder(folder / "images", counts=(arguments.images, arguments.images))
        other = write_folder(folder / "other", counts=(30, 30))
        (source / ".hidden").write_text("goes to left_out.json")
        seconds = convert(source, folder / "expected", *options)
        convert(other, folder / "old", "--shards", "9")
        expected = contents(folder / "expected")
        kills, ends, differences = 0, 0, 0
        unfinished = True
        while kills < arguments.kills or unfinished:  # the last one runs to its end
            output = folder / f"records{ends}"
            if arguments.overwrite and not output.exists():
                shutil.copytree(folder / "old", output)
            workers = str(numbers.choice((1, 2, 4)))
            moment = numbers.uniform(0, seconds) if kills < arguments.kills else None
            if convert(source, output, *options, "--workers", workers, kill_after=moment) is None:
                kills, unfinished = kills + 1, True
                continue
            found = contents(output)
            differences += sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys())
            differences += (output / ".partial").exists()
            ends, unfinished = ends + 1, False
        print(f"{kills} kills, {ends} conversions that came to their end, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
