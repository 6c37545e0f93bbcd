"""`tfvt train`: from flags to a trained run."""

import argparse
import shlex
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from .classification import ClassificationTrainer, Interrupted
from .distribution import configure_process
from .errors import LineParser, UsageError
from .recipe import Recipe, parse_recipe, recipe_parser
from .run import Run, check_same_recipe, check_vacant, check_weights_outside, locked, open_run, start_run


def train(arguments: Sequence[str]) -> int:
    """Run `tfvt train ARGUMENTS` and return its exit status."""
    if {"-h", "--help"} & set(arguments):
        parser = recipe_parser()
        _add_call_arguments(parser)
        parser.print_help()
        return 0
    parser = LineParser(add_help=False)
    _add_call_arguments(parser)
    call, recipe_arguments = parser.parse_known_args(arguments)
    if call.output is None:
        raise UsageError("say where the run goes: --output FOLDER")
    if call.resume and call.overwrite:
        raise UsageError("--resume continues the run in --output and --overwrite replaces it: give one of them")
    if call.init is not None:
        if call.resume:
            raise UsageError("--init begins a run and --resume continues one: give one of them")
        recipe_arguments = [*recipe_arguments, "--model.weights", str(_initial_weights(call.init))]
    if call.resume:
        run = open_run(call.output)
        with locked(run):
            if not any(argument.partition("=")[0] == "--config" for argument in recipe_arguments):
                recipe_arguments = ["--config", str(run.recipe), *recipe_arguments]
            recipe = parse_recipe(recipe_arguments)
            check_same_recipe(run, recipe)
            return _run(_trainer(recipe, run, resume=True))
    run = Run(call.output)
    recipe = parse_recipe(recipe_arguments)
    check_weights_outside(run, recipe)
    check_vacant(run, call.overwrite)
    trainer = _trainer(recipe, run, resume=False)
    with locked(run):  # now that records and model are known to be good
        start_run(run, recipe, call.overwrite)
        return _run(trainer)


def _trainer(recipe: Recipe, run: Run, resume: bool) -> ClassificationTrainer:
    configure_process(recipe)
    return ClassificationTrainer(recipe, run, Console(), resume)


def _add_call_arguments(parser: argparse.ArgumentParser) -> None:
    """What belongs to this call and not to the recipe."""
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="the run's folder")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="RUN_OR_CHECKPOINT",
        help="weights to start from: a run's folder, or a file of another source; the same as --model.weights",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --output")


def _initial_weights(source: Path) -> Path:
    """The file that `--init` means: a checkpoint, or the trained model in a run's folder."""
    if not source.is_dir():
        return source
    if not Run(source).final_model.is_file():
        raise UsageError(f"--init: {source} holds no trained model (no {Run(source).final_model.name} in it)")
    return Run(source).final_model


def _run(trainer: ClassificationTrainer) -> int:
    recipe, splits = trainer.recipe, trainer.splits
    folder = shlex.quote(str(trainer.run.folder))
    trainer.say(
        f"{recipe.model.name}, {splits.train.num_classes} classes: {splits.train.num_examples} training and "
        f"{splits.validation.num_examples} validation images, {recipe.epochs} epochs of "
        f"{trainer.steps_per_epoch} steps"
    )
    started = time.perf_counter()
    try:
        trainer.train()
    except Interrupted as stop:
        trainer.say(
            f"Interrupted by {signal.Signals(stop.signal_number).name} at step {trainer.step} of {trainer.num_steps}; "
            f"the state is saved. Continue with: tfvt train --resume --output {folder}"
        )
        return 128 + stop.signal_number
    seconds = round(time.perf_counter() - started)
    trainer.say(f"Trained to step {trainer.num_steps}; this call took {timedelta(seconds=seconds)}")
    if trainer.last_row is not None:  # None when there was nothing left to train
        row = trainer.last_row
        trainer.say(
            f"Validation: top-1 {row.validation_top1:.2%}, top-5 {row.validation_top5:.2%}, "
            f"loss {row.validation_loss:.4f}"
        )
    trainer.say(f"Model:      {trainer.run.final_model}")
    trainer.say(f"Metrics:    {trainer.run.metrics}; tensorboard --logdir {trainer.run.tensorboard}")
    trainer.say(f"Next:       tfvt evaluate {folder}; tfvt predict {folder} IMAGE...; tfvt export {folder}")
    return 0
