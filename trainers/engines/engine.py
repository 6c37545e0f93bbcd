"""The engine's interface to the loop. It passes NumPy arrays and iterables, never a library's tensors."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Protocol

import keras
import numpy as np

from tfvt.data.order import HostShare
from tfvt.errors import UsageError
from tfvt.trainers.recipes.recipe import Recipe
from tfvt.trainers.tasks.task import Task

Phase = Literal["train", "validation"]


class ServersGoneError(UsageError):
    """The servers that prepare the batches have stopped; the training that waits for them has not."""


class Evaluator(Protocol):
    """A model on its devices, and the task's sums over batches.

    Attributes:
        is_chief: whether this process writes files and output; exactly one process does.
        inference_model: the model to evaluate and to keep, in training with averaged weights where the recipe asks
            for them.
    """

    is_chief: bool
    inference_model: keras.Model

    def eval_batches(self, make: Callable[[HostShare], Iterable]) -> Iterable:
        """Evaluation batches for the devices; `make` gives this host's. Each iteration starts from the first batch."""

    def eval_step(self, batch: Any) -> dict[str, np.ndarray] | None:
        """Add a batch to the sums of "validation"; the task's rows of it, if it has any."""

    def read_sums(self, phase: Phase) -> dict[str, np.ndarray]:
        """The task's sums over all devices and processes since the last reset, with "images" and "loss"."""

    def reset_sums(self, phase: Phase) -> None:
        """Set the sums to zero."""


class Engine(Evaluator, Protocol):
    """An evaluator with an optimizer, averaged weights, and the steps that update them."""

    def train_batches(self, make: Callable[[HostShare], Iterable], check_stop: Callable[[], None]) -> Iterator:
        """Endless training batches for the devices.

        Args:
            make: gives this host's rows.
            check_stop: called during a long wait for a batch; it raises an exception to end the wait.
        """

    def train_steps(self, batches: Iterator, count: int) -> None:
        """Run `count` updates, in one compiled call where the devices benefit."""

    def learning_rate(self, step: int) -> float:
        """The learning rate of update number `step`, counted from 0."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, and the sums of the epoch so far. All processes call it."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a state that `state` returned."""

    def peak_memory(self) -> float:
        """The most MiB that the first device's allocator held; on a CPU, the process's largest resident set."""

    def agree(self, stop: bool) -> bool:
        """Whether any process has to stop; all processes get the same answer."""


def make_engine(recipe: Recipe, task: Task, steps_per_epoch: int) -> Engine:
    """The engine of Keras' backend.

    Raises:
        UsageError: there is none, or the recipe names devices that do not exist.
    """
    check_backend()
    from .tensorflow import TensorFlowEngine

    return TensorFlowEngine(recipe, task, steps_per_epoch)


def make_evaluator(model: keras.Model, task: Task, batch_size: int) -> Evaluator:
    """An evaluator on the first device.

    Raises:
        UsageError: Keras' backend has no engine.
    """
    check_backend()
    import tensorflow as tf

    from .tensorflow import TensorFlowEvaluator

    return TensorFlowEvaluator(model, task, tf.distribute.get_strategy(), batch_size)


def check_backend() -> None:
    """Refuse to train or to use a run on a backend without an engine.

    Raises:
        UsageError: Keras runs on a backend other than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"this needs the TensorFlow backend; KERAS_BACKEND is {keras.backend.backend()!r}")


def configure_process(recipe: Recipe) -> None:
    """Set what Keras and its backend hold once per process: number format, seeds, reproducible operations."""
    check_backend()
    from .tensorflow import make_deterministic

    keras.config.set_dtype_policy(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        make_deterministic()
