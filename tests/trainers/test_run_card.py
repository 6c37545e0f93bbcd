"""What a run says on its card: its own figures, and no addresses of this machine."""

import csv
import dataclasses
import platform
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

import tfvt
from tfvt.export.card import card_text
from tfvt.trainers.run.card import run_card
from tfvt.trainers.run.folder import Run
from tfvt.trainers.serve import open_finished


@pytest.fixture(scope="module")
def opened(finished_run):
    return open_finished(finished_run, "tensorflow", "jax")


def test_the_card_says_what_the_files_of_the_run_say(opened):
    run, recipe, model, serving = opened
    card = run_card(run, recipe, model, serving)
    with run.metrics.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert card.metrics == {name: float(last[f"validation_{name}"]) for name in ("top1", "top5")}
    assert (card.name, card.task) == (recipe.model.name, "classification")
    assert (card.records, card.split) == (Path(recipe.data.records).name, "validation")
    assert card.class_names == serving.class_names
    height, width = recipe.data.evaluation.image_size
    weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert card.facts == {
        "Parameters": f"{weights:,}",
        "Multiply-adds": f"{tfvt.profile(model).macs:,} for an image of {height} x {width}",
        "Image size": f"{height} x {width} pixels",
        "Classes": str(len(serving.class_names)),
        "tfvt": tfvt.__version__,
        "Keras": keras.__version__,
        "TensorFlow": card.facts["TensorFlow"],
        "Python": platform.python_version(),
    }
    assert card.recipe["epochs"] == recipe.epochs
    assert card.recipe["optimizer"]["learning_rate"] == recipe.optimizer.learning_rate


def test_the_card_has_no_paths_and_no_addresses(opened, finished_run):
    run, recipe, model, serving = opened
    data = dataclasses.replace(recipe.data, servers=("grpc://10.0.0.7:9000",))
    network = dataclasses.replace(recipe.model, weights="/home/someone/weights/start.npz")
    distribution = dataclasses.replace(recipe.distribution, workers=("10.0.0.8:9000",))
    recipe = dataclasses.replace(recipe, data=data, model=network, distribution=distribution)
    text = card_text(run_card(run, recipe, model, serving), "served", "savedmodel")
    assert [word for word in ("10.0.0", "someone", str(finished_run.parent), "/tmp") if word in text] == []
    kept = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert (kept["model"]["weights"], kept["data"]["records"]) == ("start.npz", Path(recipe.data.records).name)


@pytest.mark.parametrize("content", [None, "", "epoch,validation_top1\n1,\n", "validation_top1\nhigh\n", "a\n1,2\n"])
def test_a_run_without_figures_has_a_card_without_them(opened, tmp_path, content):
    _, recipe, model, serving = opened
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    card = run_card(Run(tmp_path), recipe, model, serving)
    assert card.metrics == {}
    assert "model-index" not in card_text(card, "served", "savedmodel")
