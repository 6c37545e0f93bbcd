"""docs/paper_recipes.md: every set-up of the papers, read from the page, parses, builds and trains."""

import csv
import functools
import gc
import math
import re
from pathlib import Path

import numpy as np
import pytest
from paper_rows import read_rows

import tfvt
from tfvt.analysis.profiling import NORM_LAYERS
from tfvt.data.stream import train_stream
from tfvt.trainers.engines.tensorflow import TensorFlowDevices, TensorFlowEngine
from tfvt.trainers.loop import stream_settings
from tfvt.trainers.recipes.files import packaged_recipes
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.recipes.scaling import scale_to
from tfvt.trainers.tasks import task_class
from tfvt.trainers.tasks.classification import Classification
from tfvt.trainers.tasks.distillation import training_task

ROOT = Path(__file__).parents[2]
PAPERS = {"Visual Transformers": "VT-ICCV", "ACmix": "ACmix", "Funnel-ViT": "Funnel-ViT", "DeiT": "DeiT"}
OURS = [name for name in packaged_recipes() if name.startswith("digits_")]  # on other data than the papers'
STEPS, BATCH = 2, 6
ROWS = list(read_rows("paper_recipes.md", PAPERS))


@functools.cache
def parse(*flags):
    return parse_recipe([*flags, "--data.records", "somewhere"])


def test_the_page_has_every_set_up_of_the_papers_with_its_accuracy():
    """The segmentation systems are those with a mean IoU, the detectors those with an AP."""
    with open(ROOT / "docs" / "paper_results.csv", newline="", encoding="utf-8") as file:
        papers = [row for row in csv.DictReader(file) if not row["miou"] and not row["ap"]]
    setups = [
        (row["paper"], row["table"], ", ".join(filter(None, (row["system"], row["setting"]))), row["top1_val"])
        for row in papers
    ]
    assert len(setups) == 28 + 30 + 15
    page = [(row.paper, row.table, row.setup, row.score) for row in ROWS]
    assert [entry for entry in page if entry[0] != "DeiT"] == setups


def test_every_recipe_is_on_the_page_and_its_head_has_the_same_accuracy():
    files = {row.flags[1]: row for row in ROWS if len(row.flags) == 2}
    classifiers = {n for n in packaged_recipes() if task_class(parse("--config", n).model.name) is Classification}
    assert files.keys() == classifiers - set(OURS)
    for name, row in files.items():
        head = packaged_recipes()[name].read_text(encoding="utf-8").partition("\nmodel:")[0]
        assert re.search(rf"^# Expected: .*\b{re.escape(row.score)} %", head, re.MULTILINE), name


def test_the_parameters_on_the_page_are_those_of_the_other_pages():
    known = {}
    for page in ("README.md", "docs/fidelity.md"):
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            if found := re.match(r"\| `(\w+)` \|.*?(\d{1,3}(?:,\d{3}){2,}) \|", line):
                known[found[1]] = int(found[2].replace(",", ""))
    compared = [row for row in ROWS if (row.paper, row.table) in (("VT-ICCV", "2"), ("ACmix", "Fig4"), ("DeiT", "7"))]
    for row in compared:
        name = parse(*row.flags).model.name
        if row.paper == "ACmix" or name in known:
            assert row.params == known[name], row


@functools.cache
def trainable(name, image_size, options):
    """Trainable parameters of a model with and without those of its norms."""
    model = tfvt.create_model(name, input_shape=(*image_size, 3), **dict(options))
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, NORM_LAYERS)]
    counts = [
        sum(math.prod(v.shape) for layer in layers for v in layer.trainable_variables) for layers in ([model], norms)
    ]
    del model, norms
    gc.collect()
    return counts


def test_every_row_parses():
    for row in ROWS:
        assert parse(*row.flags).label_smoothing in (0.0, 0.1)


# The default run builds the networks of other names for the page of the papers' figures.
SLOW_IF_RENAMED = [pytest.param(row, marks=[pytest.mark.slow] * ("--model.name" in row.flags)) for row in ROWS]


@pytest.mark.parametrize("row", SLOW_IF_RENAMED, ids=str)
def test_a_row_builds_the_network_that_it_counts(row):
    recipe = parse(*row.flags)
    everything, norms = trainable(
        recipe.model.name, recipe.data.train.image_size, tuple(sorted(recipe.model.options.items()))
    )
    assert everything - (norms if row.paper == "VT-ICCV" else 0) == row.params


@pytest.mark.parametrize("name", OURS)
def test_our_own_recipes_build(name):
    recipe = parse("--config", name)
    model = tfvt.create_model(
        recipe.model.name, num_classes=10, input_shape=(*recipe.data.train.image_size, 3), **recipe.model.options
    )
    assert model.output_shape == (None, 10)


SETUPS = list(dict.fromkeys([*(row.flags for row in ROWS), *(("--config", name) for name in OURS)]))


@pytest.mark.slow
@pytest.mark.parametrize("flags", SETUPS, ids=" ".join)
def test_a_set_up_trains_two_steps(flags, records):
    """The whole network on small images, on one device."""
    local = "san" in flags[1] or "acmix_resnet" in flags[1]  # whose windows of 7x7 reflect every map
    size = 128 if local else 64
    sizes = [f"--data.{part}.image_size=[{size},{size}]" for part in ("train", "evaluation")]
    recipe = parse_recipe([*flags, *sizes, f"--data.records={records}", "--distribution.strategy=default"])
    recipe, _ = scale_to(recipe, BATCH)
    task = training_task(recipe)
    engine = TensorFlowEngine(recipe, task, 8, TensorFlowDevices(recipe.distribution))
    before = engine.state()

    def stream(share):
        return train_stream(task.train_records, task.samples(True), stream_settings(recipe), share, 0)

    engine.train_steps(engine.train_batches(stream, lambda: None), STEPS)
    sums = engine.read_sums("train")
    assert sums["images"] == STEPS * BATCH
    assert 0 < sums["loss"] / sums["images"] < math.inf
    after = engine.state()
    assert all(np.isfinite(value).all() for value in after.values())
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert any("head" in name for name in moved)
