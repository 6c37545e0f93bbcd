"""Several devices and processes train and evaluate a detector as one device does: the loss is divided by the positive
anchors of the whole batch, of which each device has others.
"""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from small_boxes import TINY, TINY_MASKS, write_small_boxes
from test_equal_numbers import free_addresses, run

MAIN = "import sys; from tfvt_cli import main; sys.exit(main())"


RECIPE = [
    "--model.frozen=[.*norm.*]",
    "--data.batch_size=4", "--data.train.image_size=[96,96]", "--data.train.short_sides=[64]",
    "--data.train.max_long_side=96", "--data.train.max_boxes=5", "--data.evaluation.short_side=64",
    "--data.evaluation.max_long_side=96", "--data.evaluation.size_multiple=96",
    "--data.evaluation.score_threshold=0.001", "--steps=4", "--optimizer.name=sgd", "--optimizer.learning_rate=0.002",
]  # fmt: skip


MIRRORED = ["--distribution.strategy=mirrored", "--distribution.devices=[CPU:0,CPU:1]"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_small_boxes(tmp_path_factory.mktemp("boxes"), train=16, validation=5, masks=True)


MODELS = {
    "retinanet": ("--model.name=retinanet_resnet50", f"--model.options={json.dumps(TINY)}"),
    "mask_rcnn": ("--model.name=mask_rcnn_swin_tiny", f"--model.options={json.dumps(TINY_MASKS)}"),
}


@pytest.mark.distributed
@pytest.mark.parametrize("model", MODELS)
def test_devices_and_engines_have_the_same_losses(model, records, tmp_path):
    forms = {
        "one device": {},
        "two mirrored devices": {"devices": 2, "flags": MIRRORED},
        "one JAX device": {"backend": "jax"},
        "four JAX devices": {"backend": "jax", "devices": 4},
    }
    losses = {}
    for name, form in forms.items():
        backend, devices = form.get("backend", "tensorflow"), form.get("devices", 1)
        flags = [*RECIPE, *MODELS[model], *form.get("flags", ())]
        (report,) = run(backend, records, tmp_path / "weights.npz", flags, steps=4, devices=devices, common=())
        losses[name] = report["losses"]
    assert np.ptp(losses["one device"]) > 0.01
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses["one device"], rtol=1e-4, err_msg=name)


FIGURES = {
    "retinanet": ("train_class_loss", "train_box_loss", "validation_ap50", "validation_ar100"),
    "mask_rcnn": ("train_class_loss", "train_mask_loss", "validation_ar100", "validation_mask_ar100"),
}


def train(model, backend, folder, records, *more):
    """Four steps, then the evaluation of an odd number of images of odd sizes."""
    flags = [*RECIPE, *MODELS[model], f"--data.records={records}", f"--output={folder}", *more]
    command = [sys.executable, "-c", MAIN, "train", *flags]
    env = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "metrics.csv").open(newline="") as file:
        *_, row = csv.DictReader(file)
    assert row["validation_skipped"] == row["train_skipped"] == "0"
    return {name: float(row[name]) for name in FIGURES[model]}


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("model", "backend"), [("retinanet", "tensorflow"), ("retinanet", "jax"), ("mask_rcnn", "tensorflow")]
)
def test_two_processes_train_and_score_as_one(model, backend, records, tmp_path):
    start = ()
    if model == "mask_rcnn":  # whose masks fit nothing before some steps
        learn = ("--steps=80", "--optimizer.name=adamw", "--optimizer.learning_rate=0.003")
        train(model, backend, tmp_path / "start", records, *learn)
        start = (f"--init={tmp_path / 'start'}",)
    alone = train(model, backend, tmp_path / "alone", records, *start)
    assert min(alone.values()) > 0.05
    workers = [f"--distribution.workers=[{','.join(free_addresses(2))}]", "--supervise=2"]
    group = train(model, backend, tmp_path / "group", records, *start, "--distribution.strategy=multi_worker", *workers)
    assert group == pytest.approx(alone, rel=2e-4, abs=2e-4)
