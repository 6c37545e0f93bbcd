"""The TensorFlow engine: what happens on the devices in one step, under tf.distribute.

`keras.Model.fit` is not used because, under tf.distribute, it clips gradients before they are reduced and cannot
resume within an epoch.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.order import HostShare
from tfvt.errors import UsageError, one_line
from tfvt.trainers.recipes.recipe import DistributionRecipe, Recipe
from tfvt.trainers.tasks.task import Task, with_parts

from .cluster import Agreement, Cluster, LostProcessError, describe, from_chief, lost_process, missing_now
from .device_sums import Sums
from .engine import Phase
from .forward import training_forward
from .memory import resident_peak
from .optimizer import freeze
from .tensorflow_batches import Batches, BatchIterator, compilable, readable, served_batches
from .update import Update


class TensorFlowDevices:
    """The devices of a tf.distribute strategy, of one process or several.

    Raises:
        UsageError: a device that this machine does not have, or processes that are not named or do not answer.
    """

    def __init__(self, recipe: DistributionRecipe, cluster: Cluster | None = None, deterministic: bool = False) -> None:
        self.cluster = cluster
        if cluster:
            config = {"cluster": {"worker": cluster.addresses}, "task": {"type": "worker", "index": cluster.index}}
            os.environ["TF_CONFIG"] = json.dumps(config)
        elif recipe.strategy == "multi_worker":
            raise UsageError("distribution.strategy multi_worker needs distribution.workers and --worker, or TF_CONFIG")
        self.index, self.count = (cluster.index, len(cluster.addresses)) if cluster else (0, 1)
        self.strategy = make_strategy(recipe)
        kinds = {"GPU" if tf.config.list_logical_devices("GPU") else "CPU"}
        if recipe.strategy != "default":  # the default strategy names no devices
            kinds = {device.rpartition(":")[0].rpartition(":")[2] for device in self.strategy.extended.worker_devices}
        self.description = describe(self.strategy.num_replicas_in_sync, kinds, self.count, deterministic)

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Each process's `values`, in order."""
        if self.count == 1:
            return values[None]
        rows = np.zeros((self.count, *values.shape), np.float32)
        rows[self.index] = values
        local = iter([rows])  # for the first of this process's replicas; the others add nothing
        distributed = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant(next(local, np.zeros_like(rows)))
        )
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, distributed, axis=None).numpy()

    def explain(self, error: Exception) -> UsageError | None:
        """What an error of a step means for the user, if it comes from the loss of another process."""
        perhaps = (tf.errors.InternalError, tf.errors.FailedPreconditionError)  # a device of this machine too
        lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
        if self.count == 1 or not isinstance(error, (*lost, tf.errors.DeadlineExceededError, *perhaps)):
            return None
        if isinstance(error, perhaps) and "collective" not in error.message.lower() and not missing_now(self.cluster):
            return None
        return lost_process(self.cluster, type(error).__name__)

    def close(self) -> None:
        """Do nothing: the processes end one by one."""


def make_deterministic() -> None:
    """Limit TensorFlow to operations that give the same bits every time."""
    tf.config.experimental.enable_op_determinism()


def has_accelerator() -> bool:
    """Whether TensorFlow sees a GPU or a TPU."""
    return any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))


def make_strategy(recipe: DistributionRecipe) -> tf.distribute.Strategy:
    """The tf.distribute strategy that the recipe names.

    Raises:
        UsageError: a device that this machine does not have; the message lists those it has.
    """
    if recipe.strategy == "multi_worker":  # before anything that asks for devices
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError) as error:
            text = one_line(error)[:300]
            raise LostProcessError(f"distribution: the processes do not find each other ({text})") from error
    if recipe.strategy == "tpu":
        return _tpu_strategy(recipe.tpu)
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


def _tpu_strategy(name: str) -> tf.distribute.Strategy:
    """Written after TensorFlow's guide. Never run: no TPU was at hand."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise UsageError(f"distribution.tpu: TPU {name!r} does not answer ({one_line(error)[:200]})") from error
    return tf.distribute.TPUStrategy(resolver)


class TensorFlowEvaluator:
    """`Evaluator` of a model on a strategy's devices."""

    def __init__(self, model: keras.Model, task: Task, devices: TensorFlowDevices, batch_size: int) -> None:
        self.evaluated = model
        self.task = task
        self.strategy = strategy = devices.strategy
        self.processes = devices
        self.is_chief = devices.index == 0
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

    def eval_step(self, batch: Any) -> list[dict[str, np.ndarray]]:
        """Add one batch to the sums of "validation"; rows of weight 0 do not count."""
        rows = self._eval_step(batch)
        if rows is None:
            return []
        return [{name: self.strategy.gather(value, axis=0).numpy() for name, value in rows.items()}]

    @tf.function
    def _eval_step(self, batch):
        return self.strategy.run(self._replica_eval_step, args=(batch,))

    def _replica_eval_step(self, batch):
        outputs = float32(self.evaluated(self.task.inputs(batch), training=False))
        losses = with_parts(self.task.loss(outputs, batch, training=False))
        self.sums["validation"].add(losses, batch["weight"], self.task.sums(outputs, batch, batch["weight"]))
        return self.task.rows(outputs, batch)

    def inference(self) -> Callable[[Any], tf.Tensor]:
        """The outputs for images of any size, on the first device."""
        return self._inference

    @functools.cached_property
    def _inference(self):
        model = self.task.image_model(self.evaluated)
        taken = model.input if len(model.inputs) > 1 else model.inputs[0]  # not a list of one
        inputs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, tf.as_dtype(x.dtype)), taken)
        return tf.function(lambda inputs: float32(model(inputs, training=False)), input_signature=[inputs])

    def read_sums(self, phase: Phase) -> dict[str, np.ndarray]:
        """The sums since the last reset. Those of training are over augmented images, with the weights of each step."""
        return self.sums[phase].read()

    def reset_sums(self, phase: Phase) -> None:
        """Set the sums to zero."""
        self.sums[phase].reset()


class TensorFlowEngine(TensorFlowEvaluator):
    """`Engine` on a strategy's devices."""

    def __init__(self, recipe: Recipe, task: Task, steps_per_epoch: int, devices: TensorFlowDevices) -> None:
        self.recipe = recipe
        self.task = task
        strategy = devices.strategy
        replicas = strategy.num_replicas_in_sync
        self._check_batch(replicas)
        with strategy.scope():
            self.model = self._build()
            self.moving_statistics = [v for v in self.model.non_trainable_variables if _is_floating(v)]
            freeze(self.model, recipe.model.frozen)
            self.update = Update(recipe, self.model, steps_per_epoch)
            self.forward = training_forward(recipe, self.model, checkpoint)
        super().__init__(self.update.trained_model, task, devices, recipe.data.batch_size)
        self.agree = Agreement(devices)
        self.from_chief = functools.partial(from_chief, devices)
        with strategy.scope():
            self.sums["train"] = Sums(task)
        # Keras would sum over the devices once more in `apply`; this engine sums before it clips.
        self.update.optimizer._all_reduce_sum_gradients = list
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

    @compilable()
    def train_steps(self, batches: Iterator, count: int) -> None:
        """`count` updates from global batches {"image", ...}, each with "weight" where samples may not count."""
        if count > 1 and not self.recipe.data.servers:
            with readable():
                self._train_steps(batches.iterator_for(count), tf.constant(count))
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
        return float(self.update.schedule(step))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, and the sums of the epoch so far."""
        return self.update.state() | {f"sums/{name}": array for name, array in self.sums["train"].read().items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from a state that `state` returned."""
        self.update.restore(arrays)
        sums = {name.removeprefix("sums/"): array for name, array in arrays.items() if name.startswith("sums/")}
        self.sums["train"].assign(sums)

    def trained_model(self) -> keras.Model:
        """The model to keep."""
        return self.update.trained_model

    def peak_memory(self) -> float:
        """MiB: the most that the first GPU's allocator held; without a GPU, the process's largest resident set."""
        if tf.config.list_logical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
        return resident_peak()

    def _replica_step(self, batch):
        context = tf.distribute.get_replica_context()
        parts = self.recipe.accumulation_steps
        gradients = self._accumulated_gradients(batch, parts) if parts > 1 else self._gradients(batch)
        if self.strategy.num_replicas_in_sync > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            self._average_moving_statistics(context)
        self.update(gradients)

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
            outputs = float32(self.forward(self.task.inputs(batch)))
            losses = with_parts(self.task.loss(outputs, batch, training=True))
            weights = batch.get("weight", tf.ones_like(losses["loss"]))
            loss = self.update.scaled(tf.reduce_sum(weights * losses["loss"]) / self.recipe.data.batch_size)
        share = 1 / (self.strategy.num_replicas_in_sync * self.recipe.accumulation_steps)
        self.sums["train"].add(losses, weights, self.task.sums(outputs, batch, weights), share)
        # TensorFlow cannot make zeros of Keras' own variables, whose types are words.
        variables = [variable.value for variable in self.model.trainable_variables]
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # A gather's gradient is sparse; clipping and weight decay are written for dense ones.
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _average_moving_statistics(self, context):
        """Batch norms see only their device's images: keep one set of moving statistics, the mean."""
        # A copy: of several processes, the reduction asks a tensor on which device it is, and a variable's value is on
        # none in a graph.
        values = [tf.identity(variable.value) for variable in self.moving_statistics]
        if values:
            means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
            for variable, mean in zip(self.moving_statistics, means, strict=True):
                variable.assign(mean)


def checkpoint(function: Callable) -> Callable:
    """What `jax.checkpoint` is to JAX: the same function, which computes itself again for its gradient.

    Args:
        function: (inputs, trainable, fixed), three lists of tensors -> (outputs, state); gradients of `outputs` alone
            flow, and to `inputs` and `trainable`.
    """

    def call(inputs, trainable, fixed):
        states = []
        fixed = [
            tf.identity(value) for value in fixed
        ]  # read now: Keras gives variables, which change before the gradient

        def outputs(inputs, trainable):
            outputs, state = function(inputs, trainable, fixed)
            states.append(state)
            return outputs

        return tf.recompute_grad(outputs)(inputs, trainable), states[0]  # the gradient gives a second one

    return call


def _is_floating(variable):
    return tf.as_dtype(variable.dtype).is_floating


def float32(outputs: Any) -> Any:
    """The model's output, a tensor or several, in single precision; integers stay."""
    return tf.nest.map_structure(
        lambda output: tf.cast(output, tf.float32) if output.dtype.is_floating else output, outputs
    )
