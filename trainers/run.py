"""The folder of a run: what lies where, who may write into it, and what serving needs from it."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras

from tfvt.data.images import EvalPreprocessing

from .checkpoint import publish
from .errors import UsageError
from .recipe import Recipe, as_plain, flatten, parse_recipe, write_recipe


@dataclass(frozen=True)
class Run:
    """A run's folder. docs/training.md describes its files."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def serving(self) -> Path:
        return self.folder / "serving.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def final_model(self) -> Path:
        return self.folder / "final.keras"

    @property
    def saved_model(self) -> Path:
        return self.folder / "saved_model"

    def contents(self) -> list[Path]:
        """What a run has written here."""
        files = (self.recipe, self.serving, self.metrics, self.final_model)
        folders = (self.tensorboard, self.checkpoints, self.saved_model)
        return [path for path in files + folders if path.exists()]


@dataclass(frozen=True)
class Serving:
    """What evaluation, prediction and export take from a run beside its model."""

    class_names: tuple[str, ...]
    preprocessing: EvalPreprocessing


def check_vacant(run: Run) -> None:
    """Refuse a folder that holds a run.

    Raises:
        UsageError: it does.
    """
    if run.contents():
        raise UsageError(
            f"{run.folder} holds another run: choose another --output, continue it with --resume, "
            "or replace it with --overwrite"
        )


def check_weights_outside(run: Run, recipe: Recipe) -> None:
    """Refuse to start from weights in the run's own folder: replacing what it holds would delete them.

    Raises:
        UsageError: they are there.
    """
    weights = recipe.model.weights
    if weights and Path(weights).resolve().is_relative_to(run.folder.resolve()):
        raise UsageError(f"the initial weights {weights} lie inside --output {run.folder}: choose another --output")


def start_run(run: Run, recipe: Recipe) -> None:
    """Make the folder of a new run, with its recipe in it and nothing of an earlier run.

    The recipe gets absolute paths: the run is later used from any working directory.
    """
    for path in run.contents():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.folder.mkdir(parents=True, exist_ok=True)
    partial = run.recipe.with_suffix(".partial")
    write_recipe(_with_absolute_paths(recipe), partial)
    publish(partial, run.recipe)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    weights = recipe.model.weights
    model = dataclasses.replace(recipe.model, weights=weights and str(Path(weights).absolute()))
    data = dataclasses.replace(recipe.data, records=str(Path(recipe.data.records).absolute()))
    return dataclasses.replace(recipe, model=model, data=data)


def check_same_recipe(run: Run, recipe: Recipe) -> None:
    """Refuse to continue a run with another recipe.

    The records may have moved, a checkpoint knows their digest; the stream is the same whichever servers prepare it.

    Raises:
        UsageError: the recipes differ; the message names the keys.
    """
    began = flatten(as_plain(parse_recipe(["--config", str(run.recipe)])))
    now = flatten(as_plain(_with_absolute_paths(recipe)))
    different = [
        f"{key}: {began.get(key)!r} -> {now.get(key)!r}"
        for key in began | now
        if key not in ("data.records", "data.servers") and began.get(key) != now.get(key)
    ]
    if different:
        raise UsageError(
            f"--resume: {run.folder} began with another recipe ({', '.join(different)}); "
            "leave out --config and the flags to continue it as it began"
        )


def open_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises:
        UsageError: there is none.
    """
    run = Run(folder)
    if not run.recipe.is_file():
        raise UsageError(f"{folder} holds no run (no recipe.yaml in it): give the --output of `tfvt train`")
    return run


def write_serving(run: Run, serving: Serving) -> None:
    """Keep class names and evaluation preprocessing beside the model."""
    partial = run.serving.with_suffix(".partial")
    partial.write_text(json.dumps(as_plain(serving), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    publish(partial, run.serving)


def read_serving(run: Run) -> Serving:
    """What `write_serving` kept.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        content = json.loads(run.serving.read_text(encoding="utf-8"))
        preprocessing = content["preprocessing"] | {"image_size": tuple(content["preprocessing"]["image_size"])}
        return Serving(tuple(content["class_names"]), EvalPreprocessing(**preprocessing))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{run.serving} cannot be read ({error}): `tfvt train --resume --output {run.folder}` writes it again"
        ) from error


def write_model(run: Run, model: keras.Model) -> None:
    """Keep `model` as `final.keras`."""
    partial = run.folder / "final.partial.keras"  # Keras looks at the ending
    model.save(partial)
    publish(partial, run.final_model)


def read_model(run: Run) -> keras.Model:
    """The trained model.

    Raises:
        UsageError: training has not come to its end, or the file is damaged.
    """
    if not run.final_model.is_file():
        raise UsageError(
            f"{run.folder} has no final.keras, training has not come to its end: "
            f"go on with `tfvt train --resume --output {run.folder}`"
        )
    try:
        return keras.models.load_model(run.final_model, compile=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{run.final_model} cannot be read: {error}") from error
