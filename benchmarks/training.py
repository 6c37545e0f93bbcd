"""What the training loop costs: an epoch of the loop beside the same compiled steps bare.

`python -m benchmarks.training`. Both alternate in one process, on one ready batch, so the difference is the loop's own
work, the same for any model. A step takes about 20 ms on two CPU cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from itertools import repeat
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.timing import alternate, median_ms, median_ratio
from tfvt.data.records import RecordSet
from tfvt.trainers.engines import configure_process, make_engine
from tfvt.trainers.loop import Loop
from tfvt.trainers.pace import TimedBatches
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.folder import Run
from tfvt.trainers.stop import StopRequest
from tfvt.trainers.tasks.classification import Classification

STEPS = 100
BATCH = 8
FLAGS = [
    "--model.name=resnet18", "--model.options.width=16", f"--data.batch_size={BATCH}", "--data.records=.",
    "--data.train.image_size=[96,96]", "--data.evaluation.image_size=[96,96]", "--epochs=1000000",
]  # fmt: skip


class MadeUp(Classification):
    """Records that are never read."""

    train_records = validation_records = RecordSet(
        Path(), "train", tuple("abcdefghij"), 0, ("none",), (STEPS * BATCH,), digest=""
    )


def main():
    recipe = parse_recipe(FLAGS)
    devices = configure_process(recipe)
    task = MadeUp(recipe)
    engine = make_engine(recipe, task, STEPS, devices)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (BATCH, 96, 96, 3)).astype("float32")
    batches = TimedBatches(repeat({"image": images, "label": rng.integers(0, 10, BATCH).astype("int32")}))
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(recipe, Run(Path(folder)), task, engine, Console(quiet=True))
        with StopRequest() as stop:

            def bare():
                for _ in range(STEPS):
                    engine.train_steps(batches, 1)
                engine.read_sums("train")

            def looped():
                loop.step = 0
                loop._train_epoch(batches, stop)
                engine.read_sums("train")

            bare()
            seconds = alternate({"bare": bare, "loop": looped})
    print(f"bare steps: {median_ms(seconds['bare']) / STEPS:.2f} ms a step")
    ratio = median_ratio(seconds, "loop", "bare", "steps")
    print(f"the loop:   {median_ms(seconds['loop']) / STEPS:.2f} ms a step, {ratio:.3f}x")


if __name__ == "__main__":
    main()
