"""docs/paper_recipes_detection.md: every detection set-up of ACmix parses, builds and trains."""

import csv
import functools
import json
import math
import re

import numpy as np
import pytest
from paper_rows import read_rows
from small_boxes import write_small_boxes

import tfvt
from tfvt.registry import get_variant
from tfvt.trainers.cli import main
from tfvt.trainers.engines.optimizer import Schedule, freeze
from tfvt.trainers.recipes.files import packaged_recipes
from tfvt.trainers.recipes.parsing import parse_recipe

ROWS = list(read_rows("paper_recipes_detection.md", {"ACmix": "ACmix"}))
COCO_STEPS = 118_287 // 16


@functools.cache
def parse(*flags):
    return parse_recipe([*flags, "--data.records", "somewhere"])


def test_the_page_has_the_tables_precision():
    """Tables 3 and 4 from the top."""
    scores = [("3", "36.7"), ("3", "36.8"), ("3", "38.3"), ("3", "38.2"), ("3", "39.1")]
    scores += [("4", "36.7"), ("4", "40.5"), ("4", "39.4"), ("4", "42.0")]
    scores += [("4", "46.0"), ("4", "47.0"), ("4", "50.5"), ("4", "51.1")]
    assert [(row.table, row.score) for row in ROWS] == scores


def test_every_recipe_is_on_the_page_and_its_head_has_the_same_precision():
    recipes = {name: path for name, path in packaged_recipes().items() if re.match("coco_(?!stuff)", name)}
    files = {row.flags[1]: row for row in ROWS if len(row.flags) == 2}
    assert files.keys() == recipes.keys()
    for row in ROWS:
        head = recipes[row.flags[1]].read_text(encoding="utf-8").partition("\nmodel:")[0]
        assert re.search(rf"^# Expected: (.*\n)?(.*\n)?.*\b{re.escape(row.score)}\b", head, re.MULTILINE), row


@pytest.mark.parametrize(
    ("name", "more", "peak", "epochs", "drops"),
    [
        ("coco_retinanet_resnet50", (), 0.01, 12, (8, 11)),
        ("coco_retinanet_pvt_tiny", (), 1e-4, 12, (8, 11)),
        ("coco_retinanet_pvt_tiny", ROWS[7].flags[2:], 1e-4, 36, (27, 33)),
        ("coco_mask_rcnn_swin_tiny", (), 1e-4, 36, (27, 33)),
        ("coco_cascade_mask_rcnn_swin_tiny", (), 1e-4, 36, (27, 33)),
    ],
)
def test_rates_are_those_of_mmdetection(name, more, peak, epochs, drops):
    recipe = parse("--config", name, *more)
    schedule = Schedule(recipe, steps_per_epoch=COCO_STEPS)
    assert schedule.total_steps == epochs * COCO_STEPS

    def expected(step):
        return peak * min(0.001 + 0.999 * step / 500, 1) * 0.1 ** sum(step >= drop * COCO_STEPS for drop in drops)

    steps = [0, 1, 250, 499, 500, 501, schedule.total_steps - 1]
    steps += [drop * COCO_STEPS + offset for drop in drops for offset in (-1, 0)]
    np.testing.assert_allclose(schedule(np.array(steps)), [expected(step) for step in steps], rtol=1e-5)
    assert recipe.data.batch_size == 16
    sides = (800,) if "retinanet" in name else tuple(range(480, 801, 32))
    assert (recipe.data.train.short_sides, recipe.data.train.max_long_side) == (sides, 1333)


def is_large(row):
    return len(row.flags) > 2 or "mask" in row.flags[1]


@pytest.mark.parametrize("row", [pytest.param(r, marks=[pytest.mark.slow] * is_large(r)) for r in ROWS], ids=str)
def test_a_row_builds_the_network_that_it_counts(row):
    recipe = parse(*row.flags)
    options = {key: value for key, value in recipe.model.options.items() if key != "synchronized_batch_norm"}
    model = tfvt.create_model(recipe.model.name, num_classes=80, input_shape=(None, None, 3), **options)
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == row.params
    assert get_variant(recipe.model.name).task == "detection"
    freeze(model, recipe.model.frozen)
    kept = {v.path.partition("/")[0] for v in model.trainable_variables}
    if recipe.model.frozen:  # the stem, the first stage, and the backbone's norms
        assert not [name for name in kept if name.startswith(("stem", "stage1"))]
        assert not [name for name in kept if re.match("stage.*norm", name)]
        assert {name.partition("_")[0] for name in kept} >= {"stage2", "stage4", "neck", "head"}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_trains_two_steps(row, tmp_path):
    """On small images, on one device, with its own optimizer, schedule and augmentation.

    ACmix' windows of 7x7 are reflected at the border, which asks for a last level of 4x4.
    """
    records = write_small_boxes(tmp_path / "records", train=4, validation=1, masks=True)
    recipe = parse(*row.flags)
    options = recipe.model.options
    if "synchronized_batch_norm" in options:
        options = options | {"synchronized_batch_norm": False}
    changed = [
        "--distribution.strategy=default", "--data.batch_size=2", "--data.train.image_size=[128,128]",
        "--data.train.short_sides=[64]", "--data.train.max_long_side=128", "--data.evaluation.short_side=128",
        "--data.evaluation.max_long_side=128", "--steps=2", "--schedule.warmup_steps=0",
        f"--model.options={json.dumps(options)}",
    ]  # fmt: skip
    if recipe.data.train.crop_short_sides:
        changed += ["--data.train.crop_short_sides=[64,96]", "--data.train.crop_range=[48,80]"]
    run = tmp_path / "run"
    assert main(["train", *row.flags, f"--data.records={records}", *changed, f"--output={run}"]) == 0
    with (run / "metrics.csv").open(newline="") as file:
        (epoch,) = csv.DictReader(file)
    assert int(epoch["step"]) == 2
    assert np.isfinite(float(epoch["train_loss"]))
    assert 0 <= float(epoch["validation_ap"]) <= 1
