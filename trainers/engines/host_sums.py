"""Sums over the images of a phase, of a JAX engine."""

from collections.abc import Mapping

import jax
import numpy as np

from tfvt.trainers.tasks.task import Task

from .engine import DIVERGED

PENDING = 32  # batches whose sums wait on the devices: the host does not wait for the newest


class HostSums:
    """Sums over images by name. Each step adds those of its batch; the host adds them up in double precision."""

    def __init__(self, task: Task) -> None:
        self.zeros = {"loss": np.zeros(()), "images": np.zeros(()), DIVERGED: np.zeros(())} | task.no_sums()
        self.reset()

    def add(self, sums: Mapping[str, jax.Array]) -> None:
        """Add a batch's sums, which the devices may still compute."""
        self.pending.append(sums)
        if len(self.pending) > PENDING:
            self._add_up(self.pending.pop(0))

    def read(self) -> dict[str, np.ndarray]:
        """The sums since the last reset."""
        while self.pending:
            self._add_up(self.pending.pop(0))
        return {name: np.asarray(value) for name, value in self.totals.items()}

    def reset(self) -> None:
        """Set the sums to zero."""
        self.assign(self.zeros)

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from sums that `read` returned."""
        self.pending: list[Mapping[str, jax.Array]] = []
        self.totals = {name: np.array(arrays.get(name, zero), np.float64) for name, zero in self.zeros.items()}

    def _add_up(self, sums):
        for name in self.totals:
            value = not np.isfinite(sums["loss"]) if name == DIVERGED else sums[name]
            self.totals[name] = self.totals[name] + np.asarray(value, np.float64)
