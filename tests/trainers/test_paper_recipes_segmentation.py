"""docs/paper_recipes_segmentation.md: every segmentation set-up of the papers parses, builds and trains."""

import csv
import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from paper_rows import read_rows
from small_masks import write_small_masks

import tfvt
from tfvt.registry import get_variant
from tfvt.trainers.cli import main
from tfvt.trainers.engines.optimizer import Schedule
from tfvt.trainers.recipes.files import packaged_recipes
from tfvt.trainers.recipes.parsing import parse_recipe

ROOT = Path(__file__).parents[2]
PAPERS = {"Visual Transformers": "VT-ICCV", "ACmix": "ACmix"}
CLASSES = {"9": 54, "10": 20, "2": 150}  # by table
ROWS = list(read_rows("paper_recipes_segmentation.md", PAPERS))


@functools.cache
def parse(*flags):
    return parse_recipe([*flags, "--data.records", "somewhere"])


def test_the_page_has_every_set_up_of_the_papers_with_its_miou():
    with open(ROOT / "docs" / "paper_results.csv", newline="", encoding="utf-8") as file:
        papers = [row for row in csv.DictReader(file) if row["miou"]]
    setups = [(row["paper"], row["table"], row["system"], row["miou"]) for row in papers]
    assert len(setups) == 8 + 8
    assert [(row.paper, row.table, row.setup, row.score) for row in ROWS] == setups


def test_every_recipe_is_on_the_page_and_its_head_has_the_same_miou():
    sets = "coco_stuff_|lip_|ade20k_"
    recipes = {name: path for name, path in packaged_recipes().items() if re.match(sets, name)}
    files = {row.flags[1]: row for row in ROWS if len(row.flags) == 2}
    assert files.keys() == recipes.keys()
    for name, row in files.items():
        head = recipes[name].read_text(encoding="utf-8").partition("\nmodel:")[0]
        assert re.search(rf"^# Expected: {re.escape(row.score)} mIoU", head, re.MULTILINE), name


@pytest.mark.parametrize("layout", ["ade20k", "coco_stuff", "lip"])
def test_classes_with_sides_are_not_mirrored(layout):
    """In the mirror a left arm is a right one, but the mask would still say left."""
    classes = yaml.safe_load((ROOT / "tfrecords_tools" / "layouts" / f"{layout}.yaml").read_text())["classes"]
    has_sides = any(name.lower().startswith(("left", "right")) for name in classes.values())
    assert has_sides == (layout == "lip")
    for name in packaged_recipes():
        if name.startswith(f"{layout}_"):
            data = parse("--config", name).data
            assert data.train.flip != has_sides
            assert not data.evaluation.flip


def poly(power, steps, warmup=0):
    """mmcv's: without warm-up, or linear from (nearly) nothing."""
    return lambda step: (1 - step / steps) ** power * (min(step / warmup, 1) if warmup else 1)


def detectron2(step):
    """Warm-up from a thousandth over 1,000 steps; a tenth from steps 60,000 and 80,000 on."""
    return min(0.001 + 0.999 * step / 1000, 1) * 0.1 ** ((step >= 60_000) + (step >= 80_000))


@pytest.mark.parametrize(
    ("name", "peak", "share", "decays_all"),
    [
        ("ade20k_semantic_fpn_pvt_tiny", 2e-4, poly(0.9, 40_000), True),
        ("ade20k_upernet_swin_tiny", 6e-5, poly(1.0, 160_000, warmup=1500), False),
        ("coco_stuff_vt_fpn_resnet50", 0.04, detectron2, False),
        ("lip_vt_fpn_resnet50", 0.01, poly(0.9, 150 * 317), True),
    ],
)
def test_rates_and_decay_are_those_of_the_sources(name, peak, share, decays_all):
    recipe = parse("--config", name)
    schedule = Schedule(recipe, steps_per_epoch=317)  # LIP's 30,462 images in batches of 96
    steps = [0, 1, 700, 999, 1000, 1499, 1500, 30_000, schedule.total_steps - 1]
    if schedule.total_steps > 80_000:
        steps += [59_999, 60_000, 79_999, 80_000]
    expected = [peak * share(step) for step in steps]
    np.testing.assert_allclose(schedule(np.array(steps)), expected, rtol=1e-3, atol=1e-10)
    assert recipe.optimizer.decay_norms_and_biases == decays_all


@pytest.mark.parametrize("row", [pytest.param(r, marks=[pytest.mark.slow] * (len(r.flags) > 2)) for r in ROWS], ids=str)
def test_a_row_builds_the_network_that_it_counts(row):
    recipe = parse(*row.flags)
    options = {key: value for key, value in recipe.model.options.items() if key != "synchronized_batch_norm"}
    model = tfvt.create_model(recipe.model.name, num_classes=CLASSES[row.table], input_shape=(None, None, 3), **options)
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == row.params
    assert get_variant(recipe.model.name).task == "segmentation"


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_trains_two_steps(row, tmp_path):
    """On small crops of small images, on one device, with its own optimizer, schedule and augmentation."""
    records = write_small_masks(tmp_path / "records", train=4, validation=1)
    options = parse(*row.flags).model.options
    if "backbone_options" in options:
        options = options | {"backbone_options": options["backbone_options"] | {"positions_shape": [64, 64]}}
    changed = [
        "--distribution.strategy=default", "--data.batch_size=2", "--data.train.image_size=[64,64]",
        "--data.train.scale=[128,64]", "--data.evaluation.scale=[128,64]", "--steps=2", "--schedule.warmup_steps=0",
        f"--model.options={json.dumps(options | {'synchronized_batch_norm': False})}",
    ]  # fmt: skip
    run = tmp_path / "run"
    assert main(["train", *row.flags, f"--data.records={records}", *changed, f"--output={run}"]) == 0
    with (run / "metrics.csv").open(newline="") as file:
        (epoch,) = csv.DictReader(file)
    assert int(epoch["step"]) == 2
    assert np.isfinite(float(epoch["train_loss"]))
    assert 0 <= float(epoch["validation_miou"]) <= 1
