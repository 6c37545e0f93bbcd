"""The JAX engine: one jitted step over a mesh of devices, of one process or of many.

A step sees the whole batch: batch norms have its statistics (they are "synchronised"), and clipping its gradient,
on any number of devices. JAX keeps the state; the Keras variables get it back to be saved.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import keras
import numpy as np
import tensorflow as tf
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from keras import ops

from tfvt.data.order import HostShare
from tfvt.errors import UsageError
from tfvt.trainers.recipes.recipe import Recipe
from tfvt.trainers.tasks.task import Task, with_parts

from .cluster import Agreement, from_chief
from .engine import Phase
from .forward import training_forward
from .host_sums import HostSums
from .jax_devices import JaxDevices
from .memory import resident_peak
from .optimizer import freeze
from .sharding import Layout
from .tensorflow_batches import Batches, BatchIterator, served_batches
from .update import Update

# XLA for CPUs removes the barriers of `jax.checkpoint` and then merges the second computation with the first.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


class JaxEvaluator:
    """`Evaluator` of a model on a mesh of devices."""

    def __init__(self, model: keras.Model, task: Task, devices: JaxDevices, batch_size: int, layout: Layout) -> None:
        self.task = task
        self.mesh = mesh = devices.mesh
        self.batch_size = batch_size
        self.layout = layout
        self.evaluated = model
        self.processes = devices
        self.is_chief = jax.process_index() == 0
        self.sums = {"validation": HostSums(task)}
        self.by_rows = NamedSharding(mesh, PartitionSpec("data"))
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self._eval = jax.jit(self._eval_sums, out_shardings=(self.replicated, None))
        self.arrays = self._place(model.variables)

    def _place(self, variables: Sequence[keras.Variable]) -> dict[int, jax.Array]:
        """The variables' values on the devices, by the variables' ids. The Keras variables keep theirs."""
        placed = {}
        for variable in variables:
            value = np.asarray(variable)
            sharding = NamedSharding(self.mesh, self.layout.of(variable))
            placed[id(variable)] = jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
        return placed

    def eval_batches(self, make: Callable[[HostShare], tf.data.Dataset]) -> Iterable:
        """Evaluation batches on the devices; each iteration starts from the first batch."""
        return _Placed(Batches(make(self._share())), self._to_devices)

    @staticmethod
    def _share():
        return HostShare(jax.process_count(), jax.process_index())

    def _to_devices(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The rows of this process, as arrays of the whole batch. Record ids stay behind."""
        arrays = {name: np.asarray(value) for name, value in batch.items() if name != "id"}
        return {name: jax.make_array_from_process_local_data(self.by_rows, array) for name, array in arrays.items()}

    def eval_step(self, batch: dict[str, jax.Array]) -> list[dict[str, np.ndarray]]:
        """Add one batch to the sums of "validation"; rows of weight 0 do not count."""
        variables = self.evaluated.variables
        sums, rows = self._eval([self.arrays[id(variable)] for variable in variables], batch)
        self.sums["validation"].add(sums)
        return [{name: fetch(value) for name, value in rows.items()}] if rows else []

    def _eval_sums(self, arrays, batch):
        with keras.StatelessScope(zip(self.evaluated.variables, arrays, strict=True)):
            outputs = float32(self.evaluated(self.task.inputs(batch), training=False))
            losses = with_parts(self.task.loss(outputs, batch, training=False))
            sums = self._batch_sums(losses, batch["weight"], outputs, batch)
            return sums, self.task.rows(outputs, batch)

    def inference(self) -> Callable[[Any], jax.Array]:
        """The outputs for images of any size, on the first device; each new size is compiled."""
        arrays = [self.arrays[id(variable)] for variable in self._image_model.variables]
        device = jax.local_devices()[0]
        arrays = [a.addressable_data(0) if a.is_fully_replicated else jax.device_put(fetch(a), device) for a in arrays]
        return lambda inputs: self._inference(arrays, jax.device_put(jax.tree.map(np.asarray, inputs), device))

    @functools.cached_property
    def _image_model(self):
        return self.task.image_model(self.evaluated)

    @functools.cached_property
    def _inference(self):
        def outputs(arrays, inputs):
            with keras.StatelessScope(zip(self._image_model.variables, arrays, strict=True)):
                return float32(self._image_model(inputs, training=False))

        return jax.jit(outputs)

    def _batch_sums(self, losses, weights, outputs, batch):
        own = self.task.sums(outputs, batch, weights)
        return {name: ops.sum(loss * weights) for name, loss in losses.items()} | {"images": ops.sum(weights), **own}

    def read_sums(self, phase: Phase) -> dict[str, np.ndarray]:
        """The sums since the last reset. Those of training are over augmented images, with the weights of each step."""
        return self.sums[phase].read()

    def reset_sums(self, phase: Phase) -> None:
        """Set the sums to zero."""
        self.sums[phase].reset()


class JaxEngine(JaxEvaluator):
    """`Engine` on a mesh of devices."""

    def __init__(self, recipe: Recipe, task: Task, steps_per_epoch: int, devices: JaxDevices) -> None:
        self.recipe = recipe
        mesh = devices.mesh
        self._check_batch(mesh.shape["data"])
        with jax.default_device(jax.local_devices(backend="cpu")[0]):  # the devices get the state below
            self.model = task.model()
            freeze(self.model, recipe.model.frozen)
            self.update = Update(recipe, self.model, steps_per_epoch)
            self.forward = training_forward(recipe, self.model, jax.checkpoint)
        layout = Layout(recipe.distribution.layout, mesh, self.update.variables)
        super().__init__(self.update.trained_model, task, devices, recipe.data.batch_size, layout)
        self.agree = Agreement(devices)
        self.from_chief = functools.partial(from_chief, devices)
        self.sums["train"] = HostSums(task)
        # In lists: all processes must compile the same program, and ids differ from one to another.
        self.variables = [variable for variables in self.update.variables.values() for variable in variables]
        self.trainable = self.model.trainable_variables
        self.others = self.model.non_trainable_variables
        self.fixed = list(task.fixed_variables())
        self.arrays = self._place(self.variables + self._unaveraged() + self.fixed)
        shardings = [NamedSharding(mesh, layout.of(variable)) for variable in self.variables]
        options = KEEP_BARRIERS if recipe.rematerialize and mesh.devices.flat[0].platform == "cpu" else None
        self._step = jax.jit(
            self._next_state,
            donate_argnums=0,
            out_shardings=(shardings, self.replicated),
            compiler_options=options,
        )

    def _unaveraged(self):
        """What the averaged model holds besides its weights: the states of its unused random generators."""
        known = {id(variable) for variable in self.variables}
        return [variable for variable in self.evaluated.variables if id(variable) not in known]

    def _check_batch(self, devices):
        batch_size, parts = self.recipe.data.batch_size, self.recipe.accumulation_steps
        if batch_size % devices:
            raise UsageError(f"data.batch_size ({batch_size}) must divide by the {devices} devices")
        if batch_size // devices % parts:
            raise UsageError(
                f"accumulation_steps ({parts}) must divide the {batch_size // devices} images that each device has of "
                "a batch"
            )

    def train_batches(self, make: Callable[[HostShare], tf.data.Dataset], check_stop: Callable[[], None]) -> Iterator:
        """Training batches on the devices.

        Raises:
            ServersGoneError: from the iterator; `data.servers` have stopped.
        """
        batches, servers = make(self._share()), self.recipe.data.servers
        iterator = BatchIterator(served_batches(batches, servers, check_stop) if servers else iter(batches))
        return map(self._to_devices, iterator)

    def train_steps(self, batches: Iterator, count: int) -> None:
        """`count` updates. The host prepares the next batch while the devices compute, so one call makes one update."""
        for _ in range(count):
            batch = next(batches)
            state, fixed = ([self.arrays[id(v)] for v in variables] for variables in (self.variables, self.fixed))
            state, sums = self._step(state, fixed, batch)
            self.arrays |= {id(variable): array for variable, array in zip(self.variables, state, strict=True)}
            self.sums["train"].add(sums)

    def _next_state(self, state, fixed, batch):
        values = [*zip(self.variables, state, strict=True), *zip(self.fixed, fixed, strict=True)]
        with keras.StatelessScope(values) as scope:
            gradients, sums = self._gradients(scope, batch)
            self.update(gradients)
        return [scope.get_current_value(variable) for variable in self.variables], sums

    def _gradients(self, scope, batch):
        """Gradients of the batch's mean loss, and its sums; leaves the model's other variables in `scope`."""
        trainable = [scope.get_current_value(variable) for variable in self.trainable]
        scale = self.update.scaled(1.0)
        gradients_of = jax.value_and_grad(self._loss, has_aux=True)

        def part(others, batch):
            batch = self.task.teach(batch)
            (_, (others, sums)), gradients = gradients_of(trainable, others, batch, scale)
            return others, (gradients, sums)

        others = [scope.get_current_value(variable) for variable in self.others]
        parts = self.recipe.accumulation_steps
        if parts == 1:
            others, (gradients, sums) = part(others, batch)
        else:
            others, (gradients, sums) = self._accumulate(part, others, self._split(batch, parts))
        for variable, value in zip(self.others, others, strict=True):
            scope.add_update((variable, value))
        return gradients, sums

    @staticmethod
    def _accumulate(part, others, batches):
        """The sums of what `part` gives, over one part of the batch after another."""
        first = jax.tree.map(lambda value: value[0], batches)
        zeros = jax.tree.map(
            lambda value: jax.numpy.zeros(value.shape, value.dtype), jax.eval_shape(part, others, first)[1]
        )

        def step(carry, batch):
            others, total = carry
            others, result = part(others, batch)
            return (others, jax.tree.map(jax.numpy.add, total, result)), None

        return jax.lax.scan(step, (others, zeros), batches)[0]

    def _split(self, batch, parts):
        """(B, ...) as (parts, B / parts, ...), each part spread over all devices."""
        devices = self.mesh.shape["data"]

        def split(value):  # rows of device 0, of device 1, ... -> of each part the same
            value = value.reshape(devices, parts, -1, *value.shape[1:]).swapaxes(0, 1)
            value = value.reshape(parts, -1, *value.shape[3:])
            return jax.lax.with_sharding_constraint(value, NamedSharding(self.mesh, PartitionSpec(None, "data")))

        return jax.tree.map(split, batch)

    def _loss(self, trainable, others, batch, scale):
        """The share of (a part of) the batch in its mean loss, the other variables' new values, and the sums."""
        values = [*zip(self.trainable, trainable, strict=True), *zip(self.others, others, strict=True)]
        with keras.StatelessScope(values) as scope:
            outputs = float32(self.forward(self.task.inputs(batch)))
            losses = with_parts(self.task.loss(outputs, batch, training=True))
            weights = batch.get("weight", ops.ones_like(losses["loss"]))
            sums = self._batch_sums(losses, weights, outputs, batch)
        return scale * sums["loss"] / self.batch_size, ([scope.get_current_value(v) for v in self.others], sums)

    def learning_rate(self, step: int) -> float:
        """The rate of update number `step`."""
        return float(self.update.schedule(step))

    def trained_model(self) -> keras.Model:
        """The model to keep."""
        self._to_keras()
        return self.update.trained_model

    def _to_keras(self):
        """Give the Keras variables the state. Sharded arrays are collected from all processes."""
        with jax.default_device(jax.local_devices(backend="cpu")[0]):  # not to the first device, which may be full
            for variable in self.variables:
                variable.assign(fetch(self.arrays[id(variable)]))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, and the sums of the epoch so far."""
        self._to_keras()
        return self.update.state() | {f"sums/{name}": array for name, array in self.sums["train"].read().items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a state that `state` returned."""
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            self.update.restore(arrays)
        self.arrays |= self._place(self.variables)
        sums = {name.removeprefix("sums/"): array for name, array in arrays.items() if name.startswith("sums/")}
        self.sums["train"].assign(sums)

    def peak_memory(self) -> float:
        """MiB: the most that the first device's allocator held; on a CPU, the process's largest resident set."""
        statistics = jax.local_devices()[0].memory_stats()
        return statistics["peak_bytes_in_use"] / 2**20 if statistics else resident_peak()


class _Placed:
    """Batches that come to the devices one by one, however often they are read."""

    def __init__(self, batches: Iterable, to_devices: Callable[[Any], Any]) -> None:
        self.batches = batches
        self.to_devices = to_devices

    def __iter__(self) -> Iterator:
        return map(self.to_devices, self.batches)


def fetch(array: jax.Array) -> np.ndarray:
    """A whole array on this host. All processes call this where a process holds only a part."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def float32(outputs: Any) -> Any:
    """The model's output, a tensor or several, in single precision; integers stay."""
    return jax.tree.map(lambda x: ops.cast(x, "float32") if keras.backend.is_float_dtype(str(x.dtype)) else x, outputs)
