"""Evaluation of tasks that answer image by image, each of its own size: there are no batches of one shape.

Each process takes its share of the images, one after another, on its first device.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfvt.data.order import HostShare
from tfvt.trainers.tasks.task import Task

from .cluster import Processes
from .engine import Evaluator, Phase
from .tensorflow_batches import Batches


class ByImage:
    """`Evaluator` of "validation" for such a task."""

    def __init__(self, evaluator: Evaluator, task: Task) -> None:
        self.evaluator = evaluator
        self.task = task
        self.is_chief = evaluator.is_chief

    def eval_batches(self, make: Callable[[HostShare], Iterable]) -> Iterable:
        """The images of this process."""
        processes = self.evaluator.processes
        return Batches(make(HostShare(processes.count, processes.index)))

    def reset_sums(self, phase: Phase) -> None:
        """Set the sums to zero, and take the weights as they are now. All processes call it."""
        self.forward = self.evaluator.inference()
        self.totals = {"images": np.zeros(()), **self.task.no_sums()}

    def eval_step(self, batch: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
        """Add one image to the sums; the rows of all processes' images. All processes call it as often."""
        sample = {name: np.asarray(value)[0] for name, value in batch.items()}
        sums, row = self.task.evaluate_image(self.forward, sample)
        counts = sample["weight"] > 0
        if counts:
            for name, value in (sums | {"images": 1.0}).items():
                self.totals[name] = self.totals.get(name, 0.0) + value
        if row is None:
            return []
        processes = self.evaluator.processes
        gathered = {
            name: gather_arrays(processes, value) for name, value in (row | {"counts": np.array([counts])}).items()
        }
        rows = [{name: values[index] for name, values in gathered.items()} for index in range(processes.count)]
        return [row for row in rows if row.pop("counts")[0]]

    def read_sums(self, phase: Phase) -> dict[str, np.ndarray]:
        """The sums over all processes. All of them call it."""
        processes = self.evaluator.processes
        return {name: gather_exactly(processes, value).sum(axis=0) for name, value in self.totals.items()}


def gather_arrays(processes: Processes, value: np.ndarray) -> list[np.ndarray]:
    """Each process's `value`, in order; the arrays may differ in the length of their first axis, and hold no texts.

    Numbers pass as float64: integers beyond 2**53 would not be exact.
    """
    if processes.count == 1:
        return [value]
    lengths = gather_exactly(processes, len(value)).astype(int)
    padded = np.zeros((lengths.max(), *value.shape[1:]))
    padded[: len(value)] = value
    parts = gather_exactly(processes, padded).astype(value.dtype)
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]


def gather_exactly(processes: Processes, value: Any) -> np.ndarray:
    """Each process's `value`, float64, in order: (processes, ...). Processes exchange float32, of which each holds 16
    bits without a loss.
    """
    value = np.asarray(value, np.float64)
    pieces = np.ascontiguousarray(value).reshape(-1).view(np.uint16).astype(np.float32)
    gathered = np.ascontiguousarray(processes.gather(pieces)).astype(np.uint16)
    return gathered.view(np.float64).reshape(processes.count, *value.shape)
