"""The devices of the JAX engine: a mesh over one process or several, and how they find each other."""

import contextlib
import os
import re
import socket

import jax
import numpy as np
import tensorflow as tf
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tfvt.errors import UsageError, one_line
from tfvt.trainers.recipes.recipe import DistributionRecipe

from .cluster import Cluster, LostProcessError, describe, lost_process

DETERMINISTIC = "--xla_gpu_deterministic_ops"


def make_deterministic() -> None:
    """Limit XLA to operations that give the same bits every time; on CPUs and TPUs they do anyway."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}=true".strip()


class JaxDevices:
    """The devices of a mesh, of one process or several.

    Raises:
        UsageError: a device that this machine does not have, a mesh that does not fit, or processes that do not answer.
    """

    def __init__(self, recipe: DistributionRecipe, cluster: Cluster | None = None) -> None:
        self.cluster = cluster
        for kind in ("GPU", "TPU"):  # TensorFlow only reads the records; otherwise it would take the devices' memory
            with contextlib.suppress(RuntimeError):  # `tfvt evaluate` has used TensorFlow before, on the CPU
                tf.config.set_visible_devices([], kind)
        if recipe.strategy in ("multi_worker", "tpu"):
            self._join(cluster)
        self.index, self.count = jax.process_index(), jax.process_count()
        self.mesh = make_mesh(recipe)
        kinds = {device.platform.upper() for device in self.mesh.devices.flat}
        deterministic = kinds == {"CPU"} or DETERMINISTIC in os.environ.get("XLA_FLAGS", "")
        self.description = describe(self.mesh.devices.size, kinds, self.count, deterministic)

    def _join(self, cluster):
        # Own processes notice a loss at the next step's collective, long before heartbeats stop.
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM itself
        try:
            if cluster is None:  # Slurm, Open MPI, Cloud TPU and others say who takes part
                jax.distributed.initialize()
                return
            if cluster.index:  # so that the others can see whether this process is there; JAX does it for the chief
                port = int(cluster.addresses[cluster.index].rpartition(":")[2])
                self.listener = socket.create_server(("", port))
            # Of a cluster that is named, no scheduler shares out the devices: each process takes all it sees.
            where = cluster.addresses[0], len(cluster.addresses), cluster.index
            jax.distributed.initialize(*where, cluster_detection_method="deactivate")
        except (ValueError, RuntimeError, OSError) as error:
            if cluster is None and isinstance(error, ValueError):
                raise UsageError(
                    "distribution: nothing says which processes take part: set distribution.workers (and --worker) or "
                    "TF_CONFIG, or start them by a scheduler that jax.distributed knows"
                ) from error
            raise LostProcessError(
                f"distribution: the processes do not find each other ({one_line(error)[:300]})"
            ) from error

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Each process's `values`, in order."""
        return np.asarray(multihost_utils.process_allgather(values)).reshape(self.count, *values.shape)

    def explain(self, error: Exception) -> UsageError | None:
        """What an error of a step means for the user, if it comes from the loss of another process."""
        text = one_line(error)
        # What transports report when a connection breaks: "UNKNOWN: Gloo AllGather failed", "UNAVAILABLE: ...".
        broken = re.match(r"UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|FAILED_PRECONDITION|DEADLINE_EXCEEDED", text)
        if self.count == 1 or not broken:
            return None
        return lost_process(self.cluster, text.partition(":")[0])

    def close(self) -> None:
        """Wait for the other processes to leave as well."""
        if self.count > 1:
            jax.distributed.shutdown()


def make_mesh(recipe: DistributionRecipe) -> Mesh:
    """The devices that share a step, by the axes of `distribution.mesh`; one axis "data" if it names none.

    Raises:
        UsageError: a device that this machine does not have, or a mesh that the devices do not fill.
    """
    devices = _devices(recipe)
    axes = recipe.mesh or {"data": len(devices)}
    if next(iter(axes)) != "data" or min(axes.values()) < 1:
        raise UsageError(f"distribution.mesh {axes}: the first axis must be data, and each must have a device")
    if np.prod(list(axes.values())) != len(devices):
        raise UsageError(f"distribution.mesh {axes} does not fit: there are {len(devices)} devices")
    if jax.process_count() > 1 and axes["data"] % jax.process_count():
        raise UsageError(f"distribution.mesh {axes}: data must divide by the {jax.process_count()} processes")
    return Mesh(np.array(devices).reshape(list(axes.values())), tuple(axes))


def _devices(recipe):
    available = {f"{d.platform.upper()}:{d.local_hardware_id or 0}": d for d in jax.local_devices()}
    available |= {f"{jax.local_devices()[0].platform.upper()}:{i}": d for i, d in enumerate(jax.local_devices())}
    for name in recipe.devices:
        if name not in available:
            raise UsageError(f"distribution.devices: there is no {name}; this machine has {', '.join(available)}")
    named = [available[name] for name in recipe.devices]
    match recipe.strategy:
        case "default" | "one_device":
            return named or jax.local_devices()[:1]
        case "mirrored":
            return named or jax.local_devices()
        case _:  # several processes
            return jax.devices()
