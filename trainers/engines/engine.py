"""The engine's interface to the loop. It passes NumPy arrays and iterables, never a library's tensors."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Protocol

import keras
import numpy as np

from tfvt.data.order import HostShare
from tfvt.errors import UsageError

from .cluster import Processes

Phase = Literal["train", "validation"]
DIVERGED = "diverged"  # among the sums: the number of steps whose loss was not finite


class ServersGoneError(UsageError):
    """The servers that prepare the batches have stopped; the training that waits for them has not."""


class Devices(Processes, Protocol):
    """The devices of a run, in one process or several.

    Attributes:
        description: their number and kind, and whether their operations are deterministic.
    """

    description: str

    def explain(self, error: Exception) -> UsageError | None:
        """What an error of the backend means for the user, if it comes from the loss of another process."""

    def close(self) -> None:
        """Leave the other processes, which do the same."""


class Evaluator(Protocol):
    """A model on its devices, and the task's sums over batches.

    Attributes:
        is_chief: whether this process writes files and output; exactly one process does.
        processes: all processes of the training.
    """

    is_chief: bool
    processes: Processes

    def eval_batches(self, make: Callable[[HostShare], Iterable]) -> Iterable:
        """Evaluation batches for the devices; `make` gives this host's. Each iteration starts from the first batch."""

    def eval_step(self, batch: Any) -> list[dict[str, np.ndarray]]:
        """Add a batch to the sums of "validation"; the task's rows of it, if it has any.

        They are one dict for the whole batch, or, for a task that evaluates by image, one for each image.
        """

    def inference(self) -> Callable[[Any], Any]:
        """A function from the inputs of the task's `image_model` to its outputs, float32 where they are no integers.

        It has the weights of now, and runs on this process's first device. All processes call this.
        """

    def read_sums(self, phase: Phase) -> dict[str, np.ndarray]:
        """The task's sums over all devices and processes since the last reset, with "images", "loss" and `DIVERGED`."""

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

    def trained_model(self) -> keras.Model:
        """The model to keep, with averaged weights where the recipe asks for them. All processes call it."""

    def peak_memory(self) -> float:
        """The most MiB that the first device's allocator held; on a CPU, the process's largest resident set."""

    def from_chief(self, text: str) -> str:
        """The chief's `text` in all processes, up to 2000 bytes of it. All processes call it."""

    def agree(self, signal_number: int | None) -> int | None:
        """The signal by which any process has been asked to stop; all processes get the same answer."""
