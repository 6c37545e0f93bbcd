"""The TensorFlow engine: what happens on the devices in one step, under tf.distribute.

`keras.Model.fit` is not used because, under tf.distribute, it clips gradients before they are reduced and cannot
resume within an epoch.
"""

import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.order import HostShare
from tfvt.errors import UsageError
from tfvt.trainers.recipes.recipe import DistributionRecipe, Recipe
from tfvt.trainers.run.checkpoint import assign_arrays, name_arrays
from tfvt.trainers.tasks.task import Task

from .engine import Phase
from .optimizer import Schedule, apply_scaled, freeze, layer_scales, make_optimizer, regularize
from .tensorflow_batches import Batches, BatchIterator, readable, served_batches


def make_deterministic() -> None:
    """Limit TensorFlow to operations that give the same bits every time."""
    tf.config.experimental.enable_op_determinism()


def make_strategy(recipe: DistributionRecipe) -> tf.distribute.Strategy:
    """The tf.distribute strategy that the recipe names.

    Raises:
        UsageError: a device that this machine does not have; the message lists those it has.
    """
    available = [d.name.removeprefix("/physical_device:") for d in tf.config.list_physical_devices()]
    available += [d.name.removeprefix("/device:") for d in tf.config.list_logical_devices()]
    for device in recipe.devices:
        if device not in available:
            names = ", ".join(dict.fromkeys(available))
            raise UsageError(f"distribution.devices: there is no {device}; this machine has {names}")
    match recipe.strategy:
        case "default":
            return tf.distribute.get_strategy()
        case "one_device":
            first = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
            return tf.distribute.OneDeviceStrategy((*recipe.devices, first)[0])
        case "mirrored":
            return tf.distribute.MirroredStrategy(recipe.devices or None)


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
            for name, zeros in ({"loss": 0.0, "images": 0.0} | task.no_sums()).items()
        }

    def add(self, losses: tf.Tensor, weights: tf.Tensor, sums: Mapping[str, tf.Tensor]) -> None:
        """Add a batch: `losses` and `weights` (B,), and the task's own `sums`."""
        weights = tf.cast(weights, tf.float64)
        loss = tf.tensordot(tf.cast(losses, tf.float64), weights, 1)
        for name, value in {"loss": loss, "images": tf.reduce_sum(weights), **sums}.items():
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
            variable.assign(arrays[name])


class TensorFlowEvaluator:
    """`Evaluator` of a model on the devices of one process."""

    is_chief = True

    def __init__(self, model: keras.Model, task: Task, strategy: tf.distribute.Strategy, batch_size: int) -> None:
        self.inference_model = model
        self.task = task
        self.strategy = strategy
        self.batch_size = batch_size
        with strategy.scope():
            self.sums = {"validation": Sums(task)}

    def eval_batches(self, make: Callable[[HostShare], tf.data.Dataset]) -> Iterable:
        """Evaluation batches, split over the devices; each iteration starts from the first batch."""
        return Batches(self._distribute(make))

    def _distribute(self, make):
        replicas = self.strategy.num_replicas_in_sync

        def host_batches(context):
            batches = make(HostShare(context.num_input_pipelines, context.input_pipeline_id))
            if replicas == context.num_input_pipelines:
                return batches
            return batches.rebatch(self.batch_size // replicas, drop_remainder=True)

        return self.strategy.distribute_datasets_from_function(host_batches)

    def eval_step(self, batch: Any) -> dict[str, np.ndarray] | None:
        """Add one batch to the sums of "validation"; rows of weight 0 do not count."""
        rows = self._eval_step(batch)
        if rows is None:
            return None
        local = self.strategy.experimental_local_results
        return {name: np.concatenate([part.numpy() for part in local(value)]) for name, value in rows.items()}

    @tf.function
    def _eval_step(self, batch):
        return self.strategy.run(self._replica_eval_step, args=(batch,))

    def _replica_eval_step(self, batch):
        outputs = float32(self.inference_model(batch["image"], training=False))
        losses = self.task.loss(outputs, batch, training=False)
        self.sums["validation"].add(losses, batch["weight"], self.task.sums(outputs, batch, batch["weight"]))
        return self.task.rows(outputs, batch)

    def read_sums(self, phase: Phase) -> dict[str, np.ndarray]:
        """The sums since the last reset. Those of training are over augmented images, with the weights of each step."""
        return self.sums[phase].read()

    def reset_sums(self, phase: Phase) -> None:
        """Set the sums to zero."""
        self.sums[phase].reset()


class TensorFlowEngine(TensorFlowEvaluator):
    """`Engine` on the devices of one process."""

    def __init__(self, recipe: Recipe, task: Task, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.task = task
        strategy = make_strategy(recipe.distribution)
        replicas = strategy.num_replicas_in_sync
        self._check_batch(replicas)
        with strategy.scope():
            self.model = self._build()
            self.moving_statistics = [v for v in self.model.non_trainable_variables if _is_floating(v)]
            freeze(self.model, recipe.model.frozen)
            self.scales = layer_scales(self.model.trainable_variables, recipe.optimizer.layer_decay)
            self.schedule = Schedule(recipe, steps_per_epoch)
            self.optimizer = make_optimizer(recipe.optimizer, self.schedule, self.model.trainable_variables)
            self.average = _copy(self.model) if recipe.ema_decay is not None else None
        super().__init__(self.average or self.model, task, strategy, recipe.data.batch_size)
        with strategy.scope():
            self.sums["train"] = Sums(task)
        # Keras would sum over the devices once more in `apply`; this engine sums before it clips.
        self.optimizer._all_reduce_sum_gradients = list
        # Otherwise a plain call: synchronised batch norms cannot reduce within a function of their own.
        compiled = tf.function(self._local_gradients, jit_compile=True)
        self._gradients = compiled if recipe.jit_compile else self._local_gradients

    def _check_batch(self, replicas):
        batch_size, parts = self.recipe.data.batch_size, self.recipe.accumulation_steps
        if batch_size % replicas:
            raise UsageError(f"data.batch_size ({batch_size}) must divide by the {replicas} devices")
        if batch_size // replicas % parts:
            raise UsageError(
                f"accumulation_steps ({parts}) must divide the {batch_size // replicas} images that each device has of "
                "a batch"
            )

    def _build(self) -> keras.Model:
        try:
            return self.task.model()
        except (tf.errors.OpError, MemoryError, OverflowError) as error:
            model = self.recipe.model
            raise UsageError(
                f"model: {model.name} with model.options {model.options} does not fit into this machine's memory "
                f"({type(error).__name__})"
            ) from error

    def train_batches(self, make: Callable[[HostShare], tf.data.Dataset], check_stop: Callable[[], None]) -> Iterator:
        """Training batches, split over the devices.

        Raises:
            ServersGoneError: from the iterator; `data.servers` have stopped.
        """
        batches, servers = self._distribute(make), self.recipe.data.servers
        return BatchIterator(served_batches(batches, servers, check_stop) if servers else iter(batches))

    def train_steps(self, batches: Iterator, count: int) -> None:
        """`count` updates from global batches {"image", ...}, each with "weight" where samples may not count."""
        if count > 1 and not self.recipe.data.servers:
            with readable():
                self._train_steps(batches.iterator, tf.constant(count))
        else:  # fetch batches of servers one by one, so that the wait for them can end
            for _ in range(count):
                self._train_step(next(batches))

    @tf.function
    def _train_step(self, batch):
        self.strategy.run(self._replica_step, args=(batch,))

    @tf.function
    def _train_steps(self, iterator, count):
        for _ in tf.range(count):
            self.strategy.run(self._replica_step, args=(next(iterator),))

    def learning_rate(self, step: int) -> float:
        """The rate of update number `step`."""
        return float(self.schedule(step))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, and the sums of the epoch so far."""
        average = self.average.weights if self.average else []
        # `variables`, not `weights`: only the former include the seed generators' states.
        return {
            **name_arrays("model", self.model.variables),
            **name_arrays("optimizer", self.optimizer.variables),
            **name_arrays("average", average),
            **{f"sums/{name}": array for name, array in self.sums["train"].read().items()},
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a state that `state` returned."""
        assign_arrays("model", self.model.variables, arrays)
        assign_arrays("optimizer", self.optimizer.variables, arrays)
        assign_arrays("average", self.average.weights if self.average else [], arrays)
        sums = {name.removeprefix("sums/"): array for name, array in arrays.items() if name.startswith("sums/")}
        self.sums["train"].assign(sums)

    def peak_memory(self) -> float:
        """MiB: the most that the first GPU's allocator held; without a GPU, the process's largest resident set."""
        if tf.config.list_logical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
        bytes_per_unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 2**20

    def agree(self, stop: bool) -> bool:
        """The answer of this one process."""
        return stop

    def _replica_step(self, batch):
        context = tf.distribute.get_replica_context()
        parts = self.recipe.accumulation_steps
        gradients = self._accumulated_gradients(batch, parts) if parts > 1 else self._gradients(batch)
        if self.strategy.num_replicas_in_sync > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            self._average_moving_statistics(context)
        variables = self.model.trainable_variables
        gradients = regularize(gradients, variables, self.recipe.optimizer)
        apply_scaled(self.optimizer, gradients, variables, self.scales)
        if self.average:
            self._update_average()

    def _accumulated_gradients(self, batch, parts):
        """`_local_gradients` of the batch's parts, one after another: memory holds the activations of one part."""
        batch = {name: tf.reshape(value, (parts, -1, *value.shape[1:])) for name, value in batch.items()}
        total = [tf.zeros(variable.shape) for variable in self.model.trainable_variables]
        for part in tf.range(parts):
            gradients = self._gradients({name: value[part] for name, value in batch.items()})
            total = [sum_ + gradient for sum_, gradient in zip(total, gradients)]  # noqa: B905 - AutoGraph
        return total

    def _local_gradients(self, batch):
        """Gradients of this device's share of the global batch's mean loss; rows of weight 0 add nothing to it."""
        batch = self.task.teach(batch)  # out here, where nothing of it is kept for the gradients
        with tf.GradientTape() as tape:
            outputs = float32(self.model(batch["image"], training=True))
            losses = self.task.loss(outputs, batch, training=True)
            weights = batch.get("weight", tf.ones_like(losses))
            loss = tf.reduce_sum(weights * losses) / self.recipe.data.batch_size
        self.sums["train"].add(losses, weights, self.task.sums(outputs, batch, weights))
        # TensorFlow cannot make zeros of Keras' own variables, whose types are words.
        variables = [variable.value for variable in self.model.trainable_variables]
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # A gather's gradient is sparse; clipping and weight decay are written for dense ones.
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _average_moving_statistics(self, context):
        """Batch norms see only their device's images: keep one set of moving statistics, the mean."""
        for variable in self.moving_statistics:
            variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.convert_to_tensor(variable)))

    def _update_average(self):
        """Update the averaged weights; early on with a running mean, like TensorFlow's ExponentialMovingAverage."""
        updates = tf.cast(self.optimizer.iterations, tf.float32)
        decay = tf.minimum(self.recipe.ema_decay, (1 + updates) / (10 + updates))
        for average, weight in zip(self.average.weights, self.model.weights, strict=True):
            average.assign(average + (1 - decay) * (tf.convert_to_tensor(weight) - tf.convert_to_tensor(average)))


def _is_floating(variable):
    return tf.as_dtype(variable.dtype).is_floating


def float32(outputs: Any) -> Any:
    """The model's output, a tensor or several, in single precision."""
    return tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), outputs)


def _copy(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
