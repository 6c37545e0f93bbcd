"""A task's sums on the devices of a strategy."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfvt.trainers.tasks.task import Task

from .engine import DIVERGED


class Sums:
    """Sums over images by name, kept on the devices: the host waits only to read them."""

    def __init__(self, task: Task) -> None:
        # Each device adds to its own copy; a read sums the copies. float64 counts any number of images.
        self.variables = {
            name: tf.Variable(
                np.asarray(zeros, np.float64),
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for name, zeros in ({"loss": 0.0, "images": 0.0, DIVERGED: 0.0} | task.no_sums()).items()
        }

    def add(
        self, losses: Mapping[str, tf.Tensor], weights: tf.Tensor, sums: Mapping[str, tf.Tensor], share: float = 1.0
    ) -> None:
        """Add a batch, which is this share of a step's: "loss", its parts and `weights` (B,), and the task's `sums`."""
        weights = tf.cast(weights, tf.float64)
        added = {name: tf.tensordot(tf.cast(value, tf.float64), weights, 1) for name, value in losses.items()}
        diverged = tf.where(tf.math.is_finite(added["loss"]), 0.0, share)
        for name, value in {**added, "images": tf.reduce_sum(weights), DIVERGED: diverged, **sums}.items():
            self.variables[name].assign_add(tf.cast(value, tf.float64))

    def reset(self) -> None:
        """Set the sums to zero."""
        self.assign({name: np.zeros(variable.shape) for name, variable in self.variables.items()})

    def read(self) -> dict[str, np.ndarray]:
        """The sums over all devices."""
        return {name: np.asarray(variable.read_value()) for name, variable in self.variables.items()}

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from sums that `read` returned."""
        for name, variable in self.variables.items():
            variable.assign(arrays.get(name, np.zeros(variable.shape)))  # older checkpoints have no DIVERGED
