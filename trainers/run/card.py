"""What a run knows for the card of its model."""

import contextlib
import csv
import math
import platform
from importlib.metadata import version

import keras
import tensorflow as tf

import tfvt
from tfvt.export import Serving
from tfvt.export.card import Card
from tfvt.registry import get_variant
from tfvt.stores import as_path
from tfvt.trainers.recipes.recipe import Recipe

from .folder import Run, plain_recipe


def run_card(run: Run, recipe: Recipe, model: keras.Model, serving: Serving) -> Card:
    """The card of a finished run: what its folder says, and nothing else. Of paths it names the last part alone."""
    return Card(
        name=recipe.model.name,
        task=get_variant(recipe.model.name).task,
        records=as_path(recipe.data.records).name,
        split=recipe.data.validation_split,
        metrics=_metrics(run),
        facts=_facts(recipe, model, serving),
        class_names=tuple(serving.class_names),
        recipe=_recipe(recipe),
    )


def _metrics(run):
    """The figures of the last epoch that was evaluated, without its loss; {} if none was."""
    prefix = "validation_"
    try:
        with run.metrics.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in reversed(rows):
            cells = {key.removeprefix(prefix): float(row[key] or "nan") for key in row if str(key).startswith(prefix)}
            figures = {
                key: value for key, value in cells.items() if key not in ("loss", "skipped") and math.isfinite(value)
            }
            if figures:
                return figures
    except (OSError, ValueError, TypeError, csv.Error):  # missing or damaged
        pass
    return {}


def _facts(recipe, model, serving):
    size = [side or length for side, length in zip(model.input_shape[1:3], recipe.data.train.image_size, strict=True)]
    facts = {"Parameters": f"{sum(math.prod(weight.shape) for weight in model.trainable_weights):,}"}
    with contextlib.suppress(ValueError):  # it has a layer of its own that nobody can count
        macs = tfvt.profile(model, (*size, 3) if None in model.input_shape[1:] else None).macs
        facts["Multiply-adds"] = f"{macs:,} for an image of {size[0]} x {size[1]}"
    facts["Image size"] = "any" if None in model.input_shape[1:3] else f"{size[0]} x {size[1]} pixels"
    if serving.class_names:
        facts["Classes"] = f"{len(serving.class_names)}"
    return facts | {
        "tfvt": version("tfvt"),
        "Keras": keras.__version__,
        "TensorFlow": tf.__version__,
        "Python": platform.python_version(),
    }


def _recipe(recipe):
    """The recipe without addresses of machines, and with the last parts of paths."""
    plain = {key: value for key, value in plain_recipe(recipe).items() if key != "distribution"}
    plain["data"] = {key: value for key, value in plain["data"].items() if key != "servers"}
    for key in ("data.records", *recipe.files):
        *sections, name = key.split(".")
        entry = plain
        for section in sections:
            entry = entry[section]
        entry[name] = as_path(entry[name]).name
    return plain
