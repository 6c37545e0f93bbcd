"""Two processes train and evaluate a segmentation model as one does."""

import csv
import json
import os
import subprocess
import sys

import pytest
from small_masks import TINY, write_small_masks
from test_equal_numbers import free_addresses

MAIN = "import sys; from tfvt_cli import main; sys.exit(main())"


def train(backend, folder, records, *more):
    """Two steps whose batch norms see the whole batch, then the evaluation of an odd number of images of odd sizes."""
    options = json.dumps(TINY | {"synchronized_batch_norm": backend == "tensorflow"})
    flags = [
        "--model.name=vt_fpn_resnet50", f"--model.options={options}", f"--data.records={records}",
        "--data.batch_size=4", "--data.train.image_size=[64,64]", "--data.train.scale=null", "--steps=2",
        "--data.evaluation.mode=slide", "--data.evaluation.window=[48,40]", "--data.evaluation.stride=[30,30]",
        "--optimizer.name=sgd", "--optimizer.learning_rate=0.01", f"--output={folder}", *more,
    ]  # fmt: skip
    env = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "train", *flags],
        env=env,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "metrics.csv").open(newline="") as file:
        *_, row = csv.DictReader(file)
    names = ("train_loss", "validation_loss", "validation_miou", "validation_pixel_accuracy", "validation_skipped")
    return {name: float(row[name]) for name in names}


@pytest.mark.distributed
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_processes_score_as_one(backend, tmp_path):
    records = write_small_masks(tmp_path / "records", train=8, validation=5)
    alone = train(backend, tmp_path / "alone", records)
    workers = [f"--distribution.workers=[{','.join(free_addresses(2))}]", "--supervise=2"]
    group = train(backend, tmp_path / "group", records, "--distribution.strategy=multi_worker", *workers)
    assert group == pytest.approx(alone, rel=2e-4, abs=2e-4)
    assert group["validation_skipped"] == 0
