"""Recipes: the description of a training run, as frozen dataclasses whose fields are the keys of recipe files.

All tasks share these keys; each task defines further ones in its own module. `parsing` reads and writes recipes.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tfvt.data.order import BLOCK_SIZE
from tfvt.data.service import check_address
from tfvt.errors import UsageError

from .options import check_options
from .plain import as_plain, flatten
from .ranges import check_numbers

# The options of each optimizer and each schedule besides those that all of them share, with their defaults.
OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": False},
    "adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
    "adamw": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
    "rmsprop": {"rho": 0.9, "momentum": 0.9, "epsilon": 1e-3},
    "lamb": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6},
    "lion": {"beta_1": 0.9, "beta_2": 0.99},
    "muon": {"momentum": 0.95, "nesterov": True, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
}
SCHEDULE_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"decay_factor": 0.1, "decay_epochs": 30, "decay_steps": ()},
    "exponential": {"decay_factor": 0.9875},
    "cosine": {"final_learning_rate": 0.0},
    "poly": {"power": 0.9, "final_learning_rate": 0.0},
}


@dataclass(frozen=True)
class ModelRecipe:
    """Which network.

    Args:
        name: a name of `tfvt models`.
        options: the family's own options; `tfvt profile NAME --help` lists them with their types.
        weights: a file to start from, as `tfvt.load_checkpoint` takes it.
        frozen: regular expressions of layer names; these layers stay as they start, and their batch norms use their
            moving statistics.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataRecipe:
    """Which records, and how they become batches.

    Args:
        records: folder that `tfvt records convert` wrote.
        batch_size: images per step, over all devices together.
        train_split: the split to train on.
        validation_split: the split to evaluate on.
        repeats: differently augmented samples of each training image that is drawn; an epoch keeps its length.
        skip_damaged: leave out, count and name records that cannot be read or decoded; false: stop at the first.
        servers: addresses (grpc://host:port) of `tfvt records serve` that prepare the training batches.
        block_size: training records shuffled together; memory holds two blocks of encoded images.
    """

    records: str
    batch_size: int = 256
    train_split: str = "train"
    validation_split: str = "validation"
    repeats: int = 1
    skip_damaged: bool = False
    servers: tuple[str, ...] = ()
    block_size: int = BLOCK_SIZE

    def __post_init__(self):
        for server in self.servers:
            check_address(server)


@dataclass(frozen=True)
class OptimizerRecipe:
    """How weights are updated. A field that the named optimizer does not take must stay null.

    Args:
        name: the update rule; sgd, adam and rmsprop add weight decay to the gradient, the others decouple it.
        learning_rate: the peak rate, which the schedule scales.
        weight_decay: factor of the L2 term, or of the decoupled decay.
        decay_norms_and_biases: false: only kernels decay, not norms, biases, class tokens or tables of positions.
        layer_decay: each layer's rate is that of the next one times this, the head's the full one; null: all alike.
        clip_global_norm: largest norm of all gradients together, after the sum over devices; null: no limit.
        momentum: sgd, rmsprop, muon.
        nesterov: sgd, muon.
        rho: rmsprop, decay of the mean square.
        beta_1: adam, adamw, lamb, lion; muon, of the weights that it leaves to adamw.
        beta_2: as beta_1.
        epsilon: adam, adamw, lamb, muon, rmsprop (added under the root there).
    """

    name: Literal["sgd", "adam", "adamw", "rmsprop", "lamb", "lion", "muon"] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    decay_norms_and_biases: bool = True
    layer_decay: float | None = None
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
    """How the learning rate changes. A field that the named schedule does not take must stay null.

    Args:
        name: constant; step (times decay_factor every decay_epochs, counted from the start); exponential
            (times decay_factor per epoch after the warm-up); cosine (half a period, to final_learning_rate); poly
            ((1 - step / steps) ** power, to final_learning_rate, counted from the start, as mmsegmentation does).
        warmup_epochs: linear from warmup_learning_rate to the peak over so many epochs.
        warmup_steps: in place of warmup_epochs.
        warmup_learning_rate: the rate of the very first step of a warm-up.
        decay_factor: step, exponential.
        decay_epochs: step.
        decay_steps: step; the updates after which the rate falls, in place of decay_epochs.
        final_learning_rate: cosine, poly.
        power: poly.
    """

    name: Literal["constant", "step", "exponential", "cosine", "poly"] = "constant"
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    warmup_learning_rate: float = 0.0
    decay_factor: float | None = None
    decay_epochs: int | None = None
    decay_steps: tuple[int, ...] | None = None
    final_learning_rate: float | None = None
    power: float | None = None


@dataclass(frozen=True)
class DistributionRecipe:
    """Which devices share a step.

    Args:
        strategy: default (the backend's choice of one device), one_device, mirrored (all devices of this process),
            multi_worker (of several processes, see `workers`), tpu (of a Cloud TPU, one host or many).
        devices: names such as GPU:0; empty: the first device (one_device) or all GPUs (mirrored).
        workers: multi_worker: the processes' addresses (host:port), the chief's first; empty: as TF_CONFIG says.
        tpu: the name of the TPU, for TensorFlow; local: that of this machine.
        mesh: JAX: how many devices each axis has; empty: all are along the axis "data", which splits the batch.
        layout: JAX: regular expressions of weights' paths -> the axis, or null, that splits each of their dimensions.
    """

    strategy: Literal["default", "one_device", "mirrored", "multi_worker", "tpu"] = "default"
    devices: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    tpu: str = "local"
    mesh: dict[str, int] = field(default_factory=dict)
    layout: dict[str, list[str | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointRecipe:
    """When the state of a run is saved, besides the end of every epoch.

    Args:
        every_steps: also after so many steps; null: at the ends of epochs only.
        keep: how many of the newest checkpoints stay.
    """

    every_steps: int | None = None
    keep: int = 2


@dataclass(frozen=True)
class DivergenceRecipe:
    """What happens when the loss, a weight or the optimizer's state is no longer finite.

    Args:
        roll_backs: how often a run returns to its last checkpoint and continues with a lower rate; 0: it stops.
        rate_factor: the share of the learning rate that each of them leaves.
    """

    roll_backs: int = 0
    rate_factor: float = 0.5


@dataclass(frozen=True)
class Duration:
    """How long a run takes: updates, epochs (the last one perhaps cut short), and updates of warm-up."""

    steps: int
    epochs: int
    warmup_steps: int


@dataclass(frozen=True)
class Recipe:
    """One training run: the keys that all tasks share.

    Args:
        model: which network.
        data: which records.
        optimizer: how weights move.
        schedule: how the learning rate moves.
        epochs: passes over the training split, each of whole batches.
        steps: updates, in place of epochs; the last epoch may then be a part of one.
        seed: of initial weights, order, augmentation, dropout.
        ema_decay: decay per step of the averaged weights that evaluation and export then use; null: none.
        precision: mixed_bfloat16 computes in bfloat16 and keeps float32 weights, for accelerators; mixed_float16 for
            GPUs without bfloat16, with loss scaling.
        jit_compile: compile forward and backward with XLA.
        deterministic: only operations that give the same bits every time; null: on CPUs, not on GPUs and TPUs.
        rematerialize: keep for the gradient only what goes from block to block, and compute the rest a second time, for
            models that memory cannot hold.
        accumulation_steps: parts of a batch that are computed one after another, for batches that memory cannot hold.
        steps_per_call: updates in one compiled call, for devices that wait for the host between calls.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        distribution: which devices share a step.
        checkpoints: when the state is saved.
        divergence: what happens when numbers are no longer finite.
    """

    model: ModelRecipe
    data: DataRecipe
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    epochs: int = 90
    steps: int | None = None
    seed: int = 0
    ema_decay: float | None = None
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool = False
    deterministic: bool | None = None
    rematerialize: bool = False
    accumulation_steps: int = 1
    steps_per_call: int = 1
    evaluate_every: int = 1
    distribution: DistributionRecipe = field(default_factory=DistributionRecipe)
    checkpoints: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    divergence: DivergenceRecipe = field(default_factory=DivergenceRecipe)

    def __post_init__(self):
        check_numbers(flatten(as_plain(self)))
        object.__setattr__(self, "optimizer", _fill("optimizer", self.optimizer, OPTIMIZER_OPTIONS))
        object.__setattr__(self, "schedule", _fill("schedule", self.schedule, SCHEDULE_OPTIONS))
        options = check_options(self.model.name, self.model.options)
        object.__setattr__(self, "model", dataclasses.replace(self.model, options=options))
        device_limit = {"default": 0, "one_device": 1, "multi_worker": 0, "tpu": 0}.get(self.distribution.strategy)
        if device_limit is not None and len(self.distribution.devices) > device_limit:
            raise UsageError(
                f"distribution.devices {list(self.distribution.devices)}: strategy {self.distribution.strategy} takes "
                f"{device_limit} (mirrored takes several)"
            )
        if self.jit_compile and self.model.options.get("synchronized_batch_norm"):
            raise UsageError("jit_compile cannot compile model.options.synchronized_batch_norm: choose one of them")
        if self.steps is None and self.schedule.warmup_steps is None and self.schedule.warmup_epochs >= self.epochs:
            raise UsageError(
                f"schedule.warmup_epochs ({self.schedule.warmup_epochs:g}) must be less than epochs ({self.epochs})"
            )

    def duration(self, steps_per_epoch: int) -> "Duration":
        """The run's length, for training records that make so many steps an epoch.

        Raises:
            UsageError: the warm-up is as long as the run.
        """
        steps = self.epochs * steps_per_epoch if self.steps is None else self.steps
        warmup = self.schedule.warmup_steps
        if warmup is None:
            warmup = round(self.schedule.warmup_epochs * steps_per_epoch)
        if warmup >= steps:
            raise UsageError(f"schedule: a warm-up of {warmup} steps, in a run of {steps}: it must be shorter")
        return Duration(steps, -(-steps // steps_per_epoch), warmup)

    @property
    def files(self) -> dict[str, str]:
        """The files and folders that the run reads besides its records, by key."""
        return {"model.weights": self.model.weights} if self.model.weights else {}


def _fill(key: str, recipe, table: Mapping[str, Mapping[str, Any]]):
    """Set the optimizer's or schedule's own options to their defaults where null; refuse those of others."""
    own = table[recipe.name]
    for option in sorted({option for options in table.values() for option in options} - set(own)):
        if getattr(recipe, option) is not None:
            takers = ", ".join(name for name, options in table.items() if option in options)
            raise UsageError(f"{key}.{option} is not an option of {recipe.name} (it belongs to: {takers})")
    missing = {option: default for option, default in own.items() if getattr(recipe, option) is None}
    return dataclasses.replace(recipe, **missing)
