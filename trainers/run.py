"""The folder of a run: what lies where, who may write into it, and what serving needs from it."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfvt.data.images import EvalPreprocessing

from .checkpoint import publish, write_text
from .errors import UsageError, one_line
from .recipe import DataRecipe, ModelRecipe, Recipe, as_plain, flatten, parse_recipe, write_recipe


@dataclass(frozen=True)
class Run:
    """A run's folder. docs/training.md describes its files."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

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
        """What a run has written here, without its lock."""
        files = (self.recipe, self.serving, self.metrics, self.final_model)
        folders = (self.tensorboard, self.checkpoints, self.saved_model)
        return [path for path in files + folders if path.exists()]


@dataclass(frozen=True)
class Serving:
    """What evaluation, prediction and export take from a run beside its model."""

    class_names: tuple[str, ...]
    preprocessing: EvalPreprocessing


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold the run's folder, which is made if it is missing: no other process trains in it meanwhile.

    The operating system lets go of the lock when the process ends, however it ends.

    Raises:
        UsageError: another process holds it; the message says which one.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(
                f"{holder} trains in {run.folder}: wait for its end, stop it, or choose another --output"
            ) from None
        except OSError as error:  # some network file systems have no locks
            print(
                f"tfvt train: {run.folder} cannot be locked ({error.strerror}): make sure that no other process "
                "trains there",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def check_vacant(run: Run, overwrite: bool) -> None:
    """Refuse a folder in which a run is at work, or one that holds a run unless it is to be replaced.

    Raises:
        UsageError: it is such a folder.
    """
    if not run.contents():
        return
    with locked(run):
        if not overwrite:
            raise _holds_another_run(run)


def _holds_another_run(run: Run) -> UsageError:
    return UsageError(
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


def start_run(run: Run, recipe: Recipe, overwrite: bool = False) -> None:
    """Make the folder of a new run, with its recipe in it and nothing of an earlier run. The caller holds the lock.

    The recipe gets absolute paths: the run is later used from any working directory.

    Raises:
        UsageError: the folder holds a run, and `overwrite` is false.
    """
    if run.contents() and not overwrite:
        raise _holds_another_run(run)
    for path in run.contents():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_recipe(_with_absolute_paths(recipe), run.recipe)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    weights = recipe.model.weights
    model = dataclasses.replace(recipe.model, weights=weights and str(Path(weights).absolute()))
    data = dataclasses.replace(recipe.data, records=str(Path(recipe.data.records).absolute()))
    return dataclasses.replace(recipe, model=model, data=data)


def check_same_recipe(run: Run, recipe: Recipe) -> None:
    """Refuse to continue a run with another recipe than that in its folder.

    Raises:
        UsageError: the recipes differ; the message names the keys.
    """
    different = _differences(plain_recipe(parse_recipe(["--config", str(run.recipe)])), recipe)
    if different:
        raise UsageError(
            f"--resume: {run.folder} began with another recipe ({different}); "
            "leave out --config and the flags to continue it as it began"
        )


def check_checkpoint_recipe(run: Run, began: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse to continue a run whose recipe.yaml is not the one (`began`, of `plain_recipe`) that its checkpoint holds.

    Raises:
        UsageError: the recipes differ; the message names the keys.
    """
    different = _differences(began, recipe)
    if different:
        raise UsageError(
            f"--resume: {run.recipe} is not the recipe that the run's checkpoint was made with ({different}); "
            "put the old values back, or begin another run with the new ones"
        )


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values with absolute paths, as recipe.yaml and the checkpoints of its run hold it."""
    return as_plain(_with_absolute_paths(recipe))


def _differences(began: Mapping[str, Any], recipe: Recipe) -> str:
    """The keys whose values differ; empty if there is none.

    The records may have moved, a checkpoint knows their digest; the stream is the same whichever servers prepare it.
    A key that the run did not know, because it began with an earlier tfvt, had what is its default now.
    """
    defaults = flatten(as_plain(Recipe(ModelRecipe(recipe.model.name), DataRecipe(""))))
    began, now = flatten(began), flatten(plain_recipe(recipe))
    return ", ".join(
        f"{key}: {began.get(key)!r} -> {now.get(key)!r}"
        for key in began | now
        if key not in ("data.records", "data.servers") and began.get(key, defaults.get(key)) != now.get(key)
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
    write_text(run.serving, json.dumps(as_plain(serving), indent=1, ensure_ascii=False) + "\n")


def read_serving(run: Run) -> Serving:
    """What `write_serving` kept.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        content = json.loads(run.serving.read_text(encoding="utf-8"))
        names, preprocessing = content["class_names"], content["preprocessing"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names is no list of names")
        height, width = preprocessing["image_size"]
        if not isinstance(height, int) or not isinstance(width, int):
            raise ValueError("image_size is no pair of whole numbers")
        return Serving(tuple(names), EvalPreprocessing(**preprocessing | {"image_size": (height, width)}))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{run.serving} cannot be read ({error}): `tfvt train --resume --output {run.folder}` writes it again"
        ) from error


def write_model(run: Run, model: keras.Model) -> None:
    """Keep `model` as `final.keras`.

    Raises:
        UsageError: the disk is full, or a limit stops the file.
    """
    partial = run.folder / "final.partial.keras"  # Keras looks at the ending
    try:
        model.save(partial)
        publish(partial, run.final_model)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(
            f"cannot write {run.final_model} ({one_line(error)}): make room, then `tfvt train --resume --output "
            f"{run.folder}` writes it from the last checkpoint"
        ) from error


def read_model(run: Run) -> keras.Model:
    """The trained model.

    Raises:
        UsageError: training has not come to its end, or the file is damaged.
    """
    if not run.final_model.is_file():
        raise UsageError(
            f"{run.folder} has no final.keras, training has not come to its end: "
            f"continue it with `tfvt train --resume --output {run.folder}`"
        )
    try:
        return keras.models.load_model(run.final_model, compile=False)
    except Exception as error:  # zipfile, HDF5 and Keras each have their own for a file that is not whole
        raise UsageError(
            f"{run.final_model} cannot be read, it is damaged or of another Keras ({one_line(error)[:200]}): "
            f"`tfvt train --resume --output {run.folder}` writes it again from the last checkpoint"
        ) from error
