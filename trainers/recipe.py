"""Recipes: what a training run is, as frozen dataclasses filled from YAML and flags.

A recipe file is YAML with the fields below as keys; a flag overrides one key
(`--optimizer.learning_rate 0.1`). A key that does not exist, a value of a wrong type or a choice that is
not offered is an error that names the key. `parse_recipe` reads, `write_recipe` writes the full recipe.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from tfvt.data.images import EvalPreprocessing, TrainPreprocessing
from tfvt.data.mixing import Mixing
from tfvt.data.order import BLOCK_SIZE
from tfvt.data.service import check_address

from .checkpoint import write_text
from .errors import UsageError, parser_error, unknown_key
from .options import check_options
from .ranges import check_numbers
from .recipe_files import find_recipes, read_recipe_file

# What each optimizer and each schedule takes beside the fields that all of them share, with its default.
OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": False},
    "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
    "adamw": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
    "rmsprop": {"rho": 0.9, "momentum": 0.9, "epsilon": 1e-3},
}
SCHEDULE_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"decay_factor": 0.1, "decay_epochs": 30},
    "exponential": {"decay_factor": 0.9875},
    "cosine": {"final_learning_rate": 0.0},
}


@dataclass(frozen=True)
class ModelRecipe:
    """Which network.

    Args:
        name: a name of `tfvt models`.
        options: the family's own options; `tfvt profile NAME --help` lists them with their types.
        weights: a file to start from, as `tfvt.load_checkpoint` takes it.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None


@dataclass(frozen=True)
class DataRecipe:
    """Which images, and how they become batches.

    Args:
        records: folder that `tfvt records convert` wrote.
        batch_size: images per step, over all devices together.
        train_split: the split to train on.
        validation_split: the split to evaluate on.
        train: random crop, flip and other augmentation of training images.
        mixing: MixUp and CutMix of training batches.
        repeats: differently augmented samples of each training image that is drawn; an epoch keeps its length.
        evaluation: centre crop for evaluation, prediction and export.
        skip_damaged: leave out, count and name records that cannot be read or decoded; false: stop at the first.
        servers: addresses (grpc://host:port) of `tfvt records serve` that prepare the training batches.
        block_size: training records that are shuffled together; two blocks of encoded images are held in memory.
    """

    records: str
    batch_size: int = 256
    train_split: str = "train"
    validation_split: str = "validation"
    train: TrainPreprocessing = field(default_factory=TrainPreprocessing)
    mixing: Mixing = field(default_factory=Mixing)
    repeats: int = 1
    evaluation: EvalPreprocessing = field(default_factory=EvalPreprocessing)
    skip_damaged: bool = False
    servers: tuple[str, ...] = ()
    block_size: int = BLOCK_SIZE

    def __post_init__(self):
        for server in self.servers:
            check_address(server)


@dataclass(frozen=True)
class OptimizerRecipe:
    """How weights move. A field that the named optimizer does not take must stay null.

    Args:
        name: the update rule; adamw decouples weight decay, the others add it to the gradient.
        learning_rate: the peak rate, which the schedule scales.
        weight_decay: factor of the L2 term (adamw: of the decoupled decay).
        decay_norms_and_biases: false: kernels alone decay, not norms, biases, class tokens and tables of positions.
        clip_global_norm: largest norm of all gradients together, after the sum over devices; null: no limit.
        momentum: sgd, rmsprop.
        nesterov: sgd.
        rho: rmsprop, decay of the mean square.
        beta_1: adam, adamw.
        beta_2: adam, adamw.
        epsilon: adam, adamw, rmsprop (added under the root there).
    """

    name: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    decay_norms_and_biases: bool = True
    clip_global_norm: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    rho: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The named optimizer's own options, by name."""
        return {option: getattr(self, option) for option in OPTIMIZER_OPTIONS[self.name]}


@dataclass(frozen=True)
class ScheduleRecipe:
    """How the learning rate moves. A field that the named schedule does not take must stay null.

    Args:
        name: constant; step (times decay_factor every decay_epochs, counted from the start); exponential
            (times decay_factor per epoch after the warm-up); cosine (half a period, to final_learning_rate).
        warmup_epochs: linear from warmup_learning_rate to the peak over so many epochs.
        warmup_learning_rate: the rate of the very first step of a warm-up.
        decay_factor: step, exponential.
        decay_epochs: step.
        final_learning_rate: cosine.
    """

    name: Literal["constant", "step", "exponential", "cosine"] = "constant"
    warmup_epochs: float = 0.0
    warmup_learning_rate: float = 0.0
    decay_factor: float | None = None
    decay_epochs: int | None = None
    final_learning_rate: float | None = None


@dataclass(frozen=True)
class DistributionRecipe:
    """Which devices share a step.

    Args:
        strategy: default (TensorFlow's choice of one device), one_device, mirrored (one copy a device).
        devices: names such as GPU:0; empty: the first device (one_device) or all GPUs (mirrored).
    """

    strategy: Literal["default", "one_device", "mirrored"] = "default"
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointRecipe:
    """When the state of a run is saved, beside the end of every epoch.

    Args:
        every_steps: also after so many steps; null: at the ends of epochs only.
        keep: how many of the newest checkpoints stay.
    """

    every_steps: int | None = None
    keep: int = 2


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        model: which network.
        data: which images.
        optimizer: how weights move.
        schedule: how the learning rate moves.
        epochs: passes over the training split, each of whole batches.
        seed: of initial weights, order, augmentation, dropout.
        label_smoothing: share of the target spread evenly over all classes, in training.
        ema_decay: decay per step of the averaged weights that evaluation and export then use; null: none.
        precision: mixed_bfloat16 computes in bfloat16 and keeps float32 weights, for accelerators.
        jit_compile: compile forward and backward with XLA.
        deterministic: only operations that give the same bits every time.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        distribution: which devices share a step.
        checkpoints: when the state is saved.
    """

    model: ModelRecipe
    data: DataRecipe
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    epochs: int = 90
    seed: int = 0
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: bool = False
    deterministic: bool = True
    evaluate_every: int = 1
    distribution: DistributionRecipe = field(default_factory=DistributionRecipe)
    checkpoints: CheckpointRecipe = field(default_factory=CheckpointRecipe)

    def __post_init__(self):
        check_numbers(flatten(as_plain(self)))
        object.__setattr__(self, "optimizer", _fill("optimizer", self.optimizer, OPTIMIZER_OPTIONS))
        object.__setattr__(self, "schedule", _fill("schedule", self.schedule, SCHEDULE_OPTIONS))
        options = check_options(self.model.name, self.model.options)
        object.__setattr__(self, "model", dataclasses.replace(self.model, options=options))
        if self.data.train.image_size != self.data.evaluation.image_size:
            raise UsageError(
                f"data.train.image_size {self.data.train.image_size} and data.evaluation.image_size "
                f"{self.data.evaluation.image_size} must be equal: the model is built for one size"
            )
        device_limit = {"default": 0, "one_device": 1}.get(self.distribution.strategy)
        if device_limit is not None and len(self.distribution.devices) > device_limit:
            raise UsageError(
                f"distribution.devices {list(self.distribution.devices)}: strategy {self.distribution.strategy} takes "
                f"{device_limit} (mirrored takes several)"
            )
        if self.jit_compile and self.model.options.get("synchronized_batch_norm"):
            raise UsageError("jit_compile cannot compile model.options.synchronized_batch_norm: choose one of them")
        if self.schedule.warmup_epochs >= self.epochs:
            raise UsageError(
                f"schedule.warmup_epochs ({self.schedule.warmup_epochs:g}) must be less than epochs ({self.epochs})"
            )


def _fill(key: str, recipe, table: Mapping[str, Mapping[str, Any]]):
    """The optimizer's or schedule's own options set to their defaults where null; foreign ones refused."""
    own = table[recipe.name]
    for option in sorted({option for options in table.values() for option in options} - set(own)):
        if getattr(recipe, option) is not None:
            takers = ", ".join(name for name, options in table.items() if option in options)
            raise UsageError(f"{key}.{option} is not an option of {recipe.name} (it belongs to: {takers})")
    missing = {option: default for option, default in own.items() if getattr(recipe, option) is None}
    return dataclasses.replace(recipe, **missing)


def recipe_parser() -> ArgumentParser:
    """The parser of a recipe: `--config FILE` and one flag a key."""
    parser = ArgumentParser(exit_on_error=False, prog="tfvt train")
    parser.add_argument(
        "--config",
        action="config",
        help="recipe: a YAML file, or a name of `tfvt recipes`; later flags override its keys",
    )
    parser.add_class_arguments(Recipe)
    return parser


def parse_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that `--config FILE` (or the name of a packaged one) and flags describe.

    Raises:
        UsageError: a key that does not exist, a wrong type, a bad choice, a file that is not there.
    """
    arguments = find_recipes(arguments)
    known = set(_keys(Recipe))
    for key in _given_keys(arguments):
        below = sorted(name for name in known if name.startswith(f"{key}."))
        if below:
            raise UsageError(f"{key} takes keys such as {below[0]}, not a value of its own")
        if key not in known and not key.startswith("model.options."):
            raise unknown_key(key, known)
    parser = recipe_parser()
    try:
        settings = parser.parse_args(arguments)
    except ArgumentError as error:
        raise parser_error(error) from error
    except RecursionError as error:
        raise UsageError("a value is nested too deeply") from error
    except OverflowError as error:
        raise UsageError(f"a number is too large: {error}") from error
    try:
        recipe = parser.instantiate(settings)
        return Recipe(**{part.name: recipe[part.name] for part in dataclasses.fields(Recipe)})
    except ValueError as error:  # of the preprocessing
        raise UsageError(f"data: {error}") from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write every key of `recipe` to the YAML file `path`, which `--config` reads back."""
    write_text(path, yaml.safe_dump(as_plain(recipe), sort_keys=False))


def as_plain(value: Any) -> Any:
    """`value` (a dataclass, a tuple, ...) as what YAML and JSON hold: dicts, lists and scalars."""
    if dataclasses.is_dataclass(value):
        return {part.name: as_plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [as_plain(entry) for entry in value]
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as one level: `{"optimizer": {"name": "sgd"}}` becomes `{"optimizer.name": "sgd"}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _keys(recipe_class: type, prefix: str = "") -> Iterable[str]:
    """The keys that can be set, `optimizer.learning_rate` and the like."""
    hints = typing.get_type_hints(recipe_class)
    for part in dataclasses.fields(recipe_class):
        if dataclasses.is_dataclass(hints[part.name]):
            yield from _keys(hints[part.name], f"{prefix}{part.name}.")
        else:
            yield f"{prefix}{part.name}"


def _given_keys(arguments: Sequence[str]) -> Iterable[str]:
    """The keys that flags and `--config` files set, as they are spelt there."""
    arguments = [part for argument in arguments for part in argument.split("=", 1)]
    for position, argument in enumerate(arguments):
        if argument == "--config":
            yield from flatten(read_recipe_file(arguments[position + 1] if position + 1 < len(arguments) else ""))
        elif argument.startswith("--"):
            yield argument.removeprefix("--")
