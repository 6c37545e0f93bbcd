"""`tfvt train`: from flags to a trained run."""

import argparse
import contextlib
import dataclasses
import hashlib
import os
import shlex
import signal
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np
from rich.console import Console

from tfvt.checkpoints.folders import checkpoint_file
from tfvt.data.service import check_answer
from tfvt.errors import UsageError, complain, one_line
from tfvt.stores import AnyPath, as_path

from .dry_run import dry_run
from .engines import configure_process, make_engine
from .engines.cluster import LOST_STATUS, LostProcessError, end, find_cluster, from_chief, on_chief
from .engines.engine import Devices
from .errors import LineParser
from .loop import Loop, epoch_steps
from .patience import patiently
from .recipes.parsing import parse_recipe, recipe_parser
from .recipes.plain import as_plain, flatten
from .recipes.recipe import Recipe
from .recipes.scaling import scale_to
from .run.checkpoint import list_checkpoints
from .run.folder import Run, check_files_outside, check_same_recipe, check_vacant, open_run, start_run
from .run.lock import locked
from .stop import WATCHED, Interrupted
from .supervise import end_with_parent, run_watched, supervise
from .tasks import task_class
from .tasks.distillation import training_task

OWN = ("distribution.", "data.records", "model.weights", "distillation.teacher")  # keys in which hosts may differ


def train(arguments: Sequence[str]) -> int:
    """Run `tfvt train ARGUMENTS` and return its exit status."""
    if {"-h", "--help"} & set(arguments):
        parser = recipe_parser(task_class("").recipe_class)
        _add_call_arguments(parser)
        parser.print_help()
        return 0
    parser = LineParser(add_help=False)
    _add_call_arguments(parser)
    call, recipe_arguments = parser.parse_known_args(arguments)
    if call.dry_run and (call.resume or call.overwrite):
        raise UsageError("--dry_run writes nothing and begins from the start: leave out --resume and --overwrite")
    if call.output is None and not call.dry_run:
        raise UsageError("say where the run goes: --output FOLDER")
    if call.resume and call.overwrite:
        raise UsageError("--resume continues the run in --output and --overwrite replaces it: give one of them")
    if call.init is not None:
        if call.resume:
            raise UsageError("--init begins a run and --resume continues one: give one of them")
        recipe_arguments = [*recipe_arguments, "--model.weights", str(_initial_weights(call.init))]
    if call.supervise is not None:
        if call.dry_run or call.worker is not None:
            raise UsageError("--supervise starts all processes of a run: leave out --dry_run and --worker")
        return supervise(call.supervise, call.output, arguments)
    run = open_run(call.output) if call.resume else Run(call.output or Path())
    if call.resume and not any(argument.partition("=")[0] == "--config" for argument in recipe_arguments):
        recipe_arguments = ["--config", str(run.recipe), *recipe_arguments]
    recipe = parse_recipe(recipe_arguments)
    if call.scale_to is not None:
        if call.resume:
            raise UsageError("--scale_to begins a run and --resume continues one with its batch size: give one of them")
        recipe, changes = scale_to(recipe, call.scale_to)
        if not call.worker:
            print(changes)
    if WATCHED in os.environ:
        end_with_parent()
    cluster = find_cluster(recipe.distribution, call.worker)
    if cluster and cluster.index and keras.backend.backend() == "jax" and WATCHED not in os.environ:
        return run_watched(cluster, arguments)
    try:
        devices = configure_process(recipe, cluster)
    except LostProcessError as error:
        complain("train", one_line(error))
        end(LOST_STATUS)
    try:
        status = _run(recipe, run, call, devices)
        devices.gather(np.zeros(1, np.float32))  # the chief writes until here
        devices.close()
        return status
    except Exception as error:
        if devices.count == 1:
            raise
        _end_with_others(error, devices)


def _end_with_others(error: Exception, devices: Devices) -> NoReturn:
    """End one of several processes, whose runtimes would wait for each other."""
    explained = devices.explain(error)
    if explained:
        complain("train", one_line(explained))
        end(LOST_STATUS)
    if isinstance(error, UsageError | OSError):
        end(complain("train", one_line(error) if isinstance(error, UsageError) else error))
    traceback.print_exc()
    end(1)


def _run(recipe: Recipe, run: Run, call: argparse.Namespace, devices: Devices) -> int:
    """Take the run's folder, which only the chief writes into, and train to the end."""
    if devices.count > 1 and recipe.data.servers:
        raise UsageError("data.servers prepare the batches of one process: leave them out with several")
    keys = {key: value for key, value in flatten(as_plain(recipe)).items() if not key.startswith(OWN)}
    digest = hashlib.sha256(repr((keys, call.resume, call.dry_run)).encode()).hexdigest()
    if from_chief(devices, digest) != digest:
        raise UsageError("the chief was started with another recipe, or with --resume or --dry_run alone")
    with contextlib.ExitStack() as held:
        if call.resume:
            on_chief(devices, lambda: held.enter_context(locked(run.folder)))
            check_same_recipe(run, recipe)
            return _train(_loop(recipe, run, devices, resume=True), devices)
        if call.dry_run:
            return dry_run(_loop(recipe, run, devices, resume=False))
        check_files_outside(run, recipe)
        on_chief(devices, lambda: check_vacant(run, call.overwrite))
        loop = _loop(recipe, run, devices, resume=False)

        def take_folder():  # now that records and model are checked
            held.enter_context(locked(run.folder))
            start_run(run, recipe, call.overwrite)

        on_chief(devices, take_folder)
        return _train(loop, devices)


def _loop(recipe: Recipe, run: Run, devices: Devices, resume: bool) -> Loop:
    """The run, ready to begin, or to continue from the newest checkpoint in its folder."""
    for server in recipe.data.servers:
        try:
            check_answer(server)
        except ValueError as error:
            raise UsageError(f"data: {error}") from error
    newest = max(patiently(lambda: list_checkpoints(run.checkpoints)), default=None) if resume else None
    name = from_chief(devices, newest.name if newest else "")  # another host may see the shared folder later
    saved = run.checkpoints / name if name else None
    model = recipe.model
    if saved:  # it holds all weights: the file with which the run began may be gone
        model = dataclasses.replace(model, weights=None)
    task = training_task(dataclasses.replace(recipe, model=model))
    engine = make_engine(recipe, task, epoch_steps(task, recipe), devices)
    return Loop(recipe, run, task, engine, Console(), saved)


def _add_call_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this call that are not part of the recipe."""
    parser.add_argument("--output", type=_folder, metavar="FOLDER", help="the run's folder")
    parser.add_argument(
        "--init",
        type=as_path,
        metavar="RUN_OR_CHECKPOINT",
        help="weights to start from: a run's folder, or a file or folder of others; the same as --model.weights",
    )
    parser.add_argument(
        "--scale_to",
        type=int,
        metavar="BATCH",
        help="train with batches of BATCH images, and the rates in proportion (Goyal et al. 2017)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="take three steps and say what the run would take, in time and memory; write nothing",
    )
    parser.add_argument(
        "--worker", type=int, metavar="INDEX", help="the place of this process among distribution.workers, from 0"
    )
    parser.add_argument(
        "--supervise",
        type=int,
        metavar="N",
        help="start N processes on this machine, and all of them again, from the last checkpoint, if one is killed",
    )


def _folder(text: str) -> AnyPath:
    """Empty is what an unset variable of a shell leaves, and a path to the present directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, not an empty name")
    return as_path(text)


def _initial_weights(source: AnyPath) -> AnyPath:
    """What `--init` names: a checkpoint, the trained model in a run's folder, or a folder of the hub."""
    if not source.is_dir():
        return source
    if Run(source).final_model.is_file():
        return Run(source).final_model
    try:
        checkpoint_file(source)
    except IsADirectoryError:
        raise UsageError(f"--init: {source} holds no trained model (no {Run(source).final_model.name} in it)") from None
    except ValueError as error:
        raise UsageError(f"--init: {error}") from error
    return source


def _train(loop: Loop, devices: Devices) -> int:
    recipe, task, say = loop.recipe, loop.task, loop.log.say
    folder = shlex.quote(str(loop.run.folder))
    say(
        f"{recipe.model.name}, {task.train_records.num_classes} classes: {task.train_records.num_examples} training "
        f"and {task.validation_records.num_examples} validation images, {loop.num_epochs} epochs of "
        f"{loop.steps_per_epoch} steps, on {devices.description}"
    )
    started = time.perf_counter()
    try:
        loop.train()
    except Interrupted as stop:
        say(
            f"Interrupted by {signal.Signals(stop.signal_number).name} at step {loop.step} of {loop.num_steps}; "
            f"the state is saved. Continue with: tfvt train --resume --output {folder}"
            + (" in all processes, each with its --worker, or with --supervise N" if devices.count > 1 else "")
        )
        return 128 + stop.signal_number
    seconds = round(time.perf_counter() - started)
    say(f"Trained to step {loop.num_steps}; this call took {timedelta(seconds=seconds)}")
    if loop.last_row is not None:  # None when there was nothing left to train
        validation = loop.last_row.validation
        say(f"Validation: {validation.words(task.summary)}")
    say(f"Model:      {loop.run.final_model}")
    say(f"Metrics:    {loop.run.metrics}; tensorboard --logdir {loop.run.tensorboard}")
    say(f"Report:     {loop.run.report}")
    say(f"Next:       tfvt evaluate {folder}; tfvt predict {folder} IMAGE...; tfvt export {folder}")
    return 0
