"""The folder of a run: its files, and who may write into it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfvt.errors import UsageError
from tfvt.files import remove
from tfvt.stores import AnyPath, as_path
from tfvt.trainers.recipes.parsing import parse_recipe, write_recipe
from tfvt.trainers.recipes.plain import as_plain, flatten
from tfvt.trainers.recipes.recipe import Recipe

from .lock import LOCK, locked


@dataclass(frozen=True)
class Run:
    """A run's folder. docs/training.md describes its files."""

    folder: AnyPath

    @property
    def lock(self) -> AnyPath:
        return self.folder / LOCK

    @property
    def recipe(self) -> AnyPath:
        return self.folder / "recipe.yaml"

    @property
    def serving(self) -> AnyPath:
        return self.folder / "serving.json"

    @property
    def metrics(self) -> AnyPath:
        return self.folder / "metrics.csv"

    @property
    def report(self) -> AnyPath:
        return self.folder / "report.html"

    @property
    def tensorboard(self) -> AnyPath:
        return self.folder / "tensorboard"

    @property
    def checkpoints(self) -> AnyPath:
        return self.folder / "checkpoints"

    @property
    def diverged(self) -> AnyPath:
        return self.folder / "diverged.json"

    @property
    def final_model(self) -> AnyPath:
        return self.folder / "final.keras"

    @property
    def saved_model(self) -> AnyPath:
        return self.folder / "saved_model"

    @property
    def exported(self) -> AnyPath:
        return self.folder / "exported"

    def contents(self) -> list[AnyPath]:
        """The files that a run has written here, without its lock."""
        files = (self.recipe, self.serving, self.metrics, self.diverged, self.final_model, self.report)
        folders = (self.tensorboard, self.checkpoints, self.saved_model, self.exported)
        return [path for path in files + folders if path.exists() or path.is_symlink()]


def check_vacant(run: Run, overwrite: bool) -> None:
    """Refuse a folder in which a run is active, or one that holds a run, unless `overwrite` replaces it.

    Raises:
        UsageError: the folder is such a one, or what lies in it is not of a run.
    """
    if not run.contents():
        return
    with locked(run.folder):
        _check_replaceable(run, overwrite)


def _check_replaceable(run, overwrite):
    contents = run.contents()
    if contents and run.recipe not in contents:  # a run begins with its recipe, and deletes that of another last
        raise UsageError(
            f"{contents[0]} is of no run, and a run in {run.folder} would replace it: choose another --output, or "
            "move it away"
        )
    if contents and not overwrite:
        raise UsageError(
            f"{run.folder} holds another run: choose another --output, continue it with --resume, "
            "or replace it with --overwrite"
        )


def check_files_outside(run: Run, recipe: Recipe) -> None:
    """Refuse to read weights or a teacher in the run's own folder: replacing what it holds would delete them.

    Raises:
        UsageError: a file of the recipe is inside that folder; the message names its key.
    """
    for key, path in recipe.files.items():
        if as_path(path).resolve().is_relative_to(run.folder.resolve()):
            raise UsageError(f"{key} {path} lies inside --output {run.folder}: choose another --output")


def start_run(run: Run, recipe: Recipe, overwrite: bool = False) -> None:
    """Make the folder of a new run, with its recipe and without files of an earlier run. The caller holds the lock.

    The recipe gets absolute paths (a store's are so), so that later commands work from any directory.

    Raises:
        UsageError: the folder holds a run, and `overwrite` is false; or what lies in it is not of a run.
    """
    _check_replaceable(run, overwrite)
    for path in set(run.contents()) - {run.recipe}:  # the new recipe replaces the old one at once
        remove(path)  # of a link, which may lead to a larger disk, the link alone
    write_recipe(_with_absolute_paths(recipe), run.recipe)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    weights = recipe.model.weights
    model = dataclasses.replace(recipe.model, weights=weights and str(as_path(weights).absolute()))
    data = dataclasses.replace(recipe.data, records=str(as_path(recipe.data.records).absolute()))
    return dataclasses.replace(recipe, model=model, data=data)


def check_same_recipe(run: Run, recipe: Recipe) -> None:
    """Refuse to continue a run with a recipe other than the one in its folder.

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
    """Refuse to continue a run if its recipe.yaml differs from the one in its checkpoint (`began`, of `plain_recipe`).

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
    """The keys whose values differ; empty if there are none.

    The records may have moved, since a checkpoint holds their digest; the stream is the same for any servers, and other
    devices and processes do the same up to rounding. A key that the run did not know, because it began with an earlier
    tfvt, had its present default.
    """
    defaults = flatten(as_plain(parse_recipe(["--model.name", recipe.model.name, "--data.records", ""])))
    began, now = flatten(began), flatten(plain_recipe(recipe))
    return ", ".join(
        f"{key}: {began.get(key)!r} -> {now.get(key)!r}"
        for key in began | now
        if key not in ("data.records", "data.servers")
        and not key.startswith("distribution.")
        and began.get(key, defaults.get(key)) != now.get(key)
    )


def open_run(folder: AnyPath) -> Run:
    """The run in `folder`.

    Raises:
        UsageError: there is none.
    """
    run = Run(folder)
    if not run.recipe.is_file():
        raise UsageError(f"{folder} holds no run (no recipe.yaml in it): give the --output of `tfvt train`")
    return run
