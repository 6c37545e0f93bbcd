"""The TensorFlow step engine: what happens on the devices in one step, under tf.distribute.

The host loop (`classification.py`) calls the engine's public methods and knows nothing else of devices: another
engine with the same methods can take this one's place. `keras.Model.fit` is not used because, under
tf.distribute, it clips gradients before they are reduced and cannot resume within an epoch.
"""

import queue
import re
import resource
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

import tfvt
from tfvt.data.order import HostShare
from tfvt.data.service import check_answer

from .checkpoint import assign_arrays, name_arrays
from .errors import UsageError, one_line
from .optimizer import Schedule, make_optimizer, regularize
from .recipe import DistributionRecipe, Recipe

SIGN_OF_LIFE_SECONDS = 1.0  # between two looks at the servers while they owe a batch


@dataclass(frozen=True)
class Metrics:
    """Means over `num_images` images: cross entropy, and shares in 0..1 whose label ranks first, among the first 5."""

    loss: float
    top1: float
    top5: float
    num_images: int


def check_backend() -> None:
    """Refuse to train or to use a run on another backend than TensorFlow.

    Raises:
        UsageError: Keras runs on another one.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"this needs the TensorFlow backend; KERAS_BACKEND is {keras.backend.backend()!r}")


def configure_process(recipe: Recipe) -> None:
    """Set what TensorFlow and Keras hold once a process: number format, seeds, reproducible operations."""
    check_backend()
    keras.config.set_dtype_policy(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
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


class Totals:
    """Sums over images, kept on the devices: reading them is the only moment the host waits."""

    def __init__(self):
        # Each device adds to its own copy; a read sums the copies. float64 counts any number of images.
        self.sums = tf.Variable(
            np.zeros(4), synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM
        )

    def add(self, losses, labels, logits, weights):
        """Add a batch: `losses`, `labels` and `weights` are (B,), `logits` (B, classes)."""
        top1 = tf.math.in_top_k(labels, logits, 1)
        top5 = tf.math.in_top_k(labels, logits, min(5, logits.shape[-1]))
        rows = [tf.cast(row, tf.float64) for row in (losses, top1, top5, tf.ones_like(losses))]
        self.sums.assign_add(tf.linalg.matvec(tf.stack(rows), tf.cast(weights, tf.float64)))

    def reset(self) -> None:
        """Begin to count anew."""
        self.sums.assign(np.zeros(4))

    def metrics(self) -> Metrics:
        """The means so far; nan before the first image."""
        loss, top1, top5, images = self.sums.numpy()
        with np.errstate(invalid="ignore"):
            return Metrics(*(np.array([loss, top1, top5]) / images).tolist(), num_images=int(images))


class Evaluator:
    """Loss, top-1 and top-5 of `model` over batches {"image", "label", "weight"}."""

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        self.model = model
        self.strategy = strategy
        with strategy.scope():
            self.totals = Totals()

    def reset(self) -> None:
        """Forget the batches so far."""
        self.totals.reset()

    def metrics(self) -> Metrics:
        """Means over the batches since the last reset."""
        return self.totals.metrics()

    @tf.function
    def step(self, batch) -> None:
        """Add one batch; rows of weight 0 do not count."""
        self.strategy.run(self._replica_step, args=(batch,))

    def _replica_step(self, batch):
        logits = tf.cast(self.model(batch["image"], training=False), tf.float32)
        losses = cross_entropy(batch["label"], logits, label_smoothing=0.0)
        self.totals.add(losses, batch["label"], logits, batch["weight"])


def readable_batches(batches: Iterable) -> Iterator:
    """`batches`, with TensorFlow's page about a damaged record as one line.

    Raises:
        UsageError: a record cannot be read; the message names it.
    """
    try:
        yield from batches
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        assertion = re.search(r"assertion failed: \[(.*?)\]\s*(\[\[|$)", error.message, re.DOTALL)
        raise UsageError(assertion[1] if assertion else error.message) from error


class ServersGoneError(UsageError):
    """The servers that prepare the batches have stopped; the training that waits for them has not."""


def served_batches(batches: Iterable, servers: Sequence[str], check_stop: Callable[[], None]) -> Iterator:
    """`batches`, which `servers` (`data.servers`) prepare, with an end to waiting for servers that have gone.

    TensorFlow tries to reach a server for an hour, and nothing can interrupt it: a thread fetches the next batch.

    Args:
        check_stop: called while this waits; it raises what is to end the waiting.

    Raises:
        ServersGoneError: a server has stopped or was started anew; the message names it.
        tf.errors.InvalidArgumentError, tf.errors.DataLossError: a record cannot be read.
    """
    fetched: queue.Queue = queue.Queue(maxsize=1)

    def fetch():
        try:
            for batch in batches:
                fetched.put(batch)
        except Exception as error:
            fetched.put(error)

    threading.Thread(target=fetch, daemon=True).start()
    while True:
        try:
            batch = fetched.get(timeout=SIGN_OF_LIFE_SECONDS)
        except queue.Empty:
            check_stop()
            _check_servers(servers)
            continue
        if isinstance(batch, tf.errors.InvalidArgumentError | tf.errors.DataLossError):
            raise batch
        if isinstance(batch, Exception):
            _check_servers(servers)
            text = one_line(batch)[:200]
            raise ServersGoneError(f"data.servers: {', '.join(servers)} gave no more batches: {text}") from batch
        yield batch


def _check_servers(servers: Sequence[str]) -> None:
    for server in servers:
        try:
            check_answer(server)
        except ValueError as error:
            raise ServersGoneError(f"data.servers: {error}, then continue with --resume") from error


class TensorFlowEngine:
    """Model, optimizer and averaged weights on their devices, and the steps that move them."""

    def __init__(self, recipe: Recipe, num_classes: int, steps_per_epoch: int):
        self.recipe = recipe
        self.strategy = make_strategy(recipe.distribution)
        replicas = self.strategy.num_replicas_in_sync
        if recipe.data.batch_size % replicas:
            raise UsageError(f"data.batch_size ({recipe.data.batch_size}) must divide by the {replicas} devices")
        with self.strategy.scope():
            self.model = build_model(recipe, num_classes)
            self.schedule = Schedule(recipe, steps_per_epoch)
            self.optimizer = make_optimizer(recipe.optimizer, self.schedule, self.model.trainable_variables)
            self.average = _copy(self.model) if recipe.ema_decay is not None else None
            self.totals = Totals()
        # Keras would sum over the devices once more in `apply`; ours are summed before they are clipped.
        self.optimizer._all_reduce_sum_gradients = list
        self.evaluator = Evaluator(self.inference_model, self.strategy)
        # A plain call otherwise: synchronised batch norms cannot reduce within a function of their own.
        compiled = tf.function(self._local_gradients, jit_compile=True)
        self._gradients = compiled if recipe.jit_compile else self._local_gradients

    @property
    def inference_model(self) -> keras.Model:
        """The model to evaluate and to keep: with averaged weights where the recipe asks for them."""
        return self.average or self.model

    def distribute(self, make_dataset: Callable[[HostShare], tf.data.Dataset]) -> Iterable:
        """Batches split over the devices; each iteration begins anew.

        Args:
            make_dataset: called once on each host; gives the rows of each global batch that are this host's.
        """
        batch_size, replicas = self.recipe.data.batch_size, self.strategy.num_replicas_in_sync

        def host_batches(context):
            batches = make_dataset(HostShare(context.num_input_pipelines, context.input_pipeline_id))
            if replicas == context.num_input_pipelines:
                return batches
            return batches.rebatch(batch_size // replicas, drop_remainder=True)

        return self.strategy.distribute_datasets_from_function(host_batches)

    @tf.function
    def train_step(self, batch) -> None:
        """One update from a global batch {"image", "label"}, if it has them by "target" (soft labels) and "weight"."""
        self.strategy.run(self._replica_step, args=(batch,))

    def train_metrics(self) -> Metrics:
        """Means since the last reset over the training batches, as augmented, with the weights of each step."""
        return self.totals.metrics()

    def reset_train_metrics(self) -> None:
        """Begin a new epoch's means."""
        self.totals.reset()

    def learning_rate(self, step: int) -> float:
        """The rate of update number `step`."""
        return float(self.schedule(step))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, and the sums of the epoch so far."""
        average = self.average.weights if self.average else []
        # `variables`, not `weights`: the seed generators' states are only in the former.
        return {
            **name_arrays("model", self.model.variables),
            **name_arrays("optimizer", self.optimizer.variables),
            **name_arrays("average", average),
            "totals": self.totals.sums.numpy(),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take up a state that `state` gave."""
        assign_arrays("model", self.model.variables, arrays)
        assign_arrays("optimizer", self.optimizer.variables, arrays)
        assign_arrays("average", self.average.weights if self.average else [], arrays)
        self.totals.sums.assign(arrays["totals"])

    def peak_memory(self) -> float:
        """MiB: the most that the first GPU's allocator held; without a GPU, the process's largest resident set."""
        if tf.config.list_logical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
        bytes_per_unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 2**20

    def _replica_step(self, batch):
        context = tf.distribute.get_replica_context()
        gradients = self._gradients(batch)
        if self.strategy.num_replicas_in_sync > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            self._average_moving_statistics(context)
        variables = self.model.trainable_variables
        self.optimizer.apply(regularize(gradients, variables, self.recipe.optimizer))
        if self.average:
            self._update_average()

    def _local_gradients(self, batch):
        """Gradients of this device's share of the global batch's mean loss; rows of weight 0 add nothing to it."""
        labels = tf.argmax(batch["target"], axis=-1, output_type=tf.int32) if "target" in batch else batch["label"]
        with tf.GradientTape() as tape:
            logits = tf.cast(self.model(batch["image"], training=True), tf.float32)
            losses = cross_entropy(batch.get("target", labels), logits, self.recipe.label_smoothing)
            weights = batch.get("weight", tf.ones_like(losses))
            loss = tf.reduce_sum(weights * losses) / self.recipe.data.batch_size
        self.totals.add(losses, labels, logits, weights)
        gradients = tape.gradient(
            loss, self.model.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        # A gather's gradient is sparse; clipping and weight decay are written for dense ones.
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _average_moving_statistics(self, context):
        """Batch norms see only their device's images: keep one set of moving statistics, the mean."""
        for variable in self.model.non_trainable_variables:
            if tf.as_dtype(variable.dtype).is_floating:
                variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.convert_to_tensor(variable)))

    def _update_average(self):
        """Move the averaged weights; early on by a running mean, as TensorFlow's ExponentialMovingAverage."""
        updates = tf.cast(self.optimizer.iterations, tf.float32)
        decay = tf.minimum(self.recipe.ema_decay, (1 + updates) / (10 + updates))
        for average, weight in zip(self.average.weights, self.model.weights, strict=True):
            average.assign(average + (1 - decay) * (tf.convert_to_tensor(weight) - tf.convert_to_tensor(average)))


def cross_entropy(targets, logits, label_smoothing: float):
    """Soft-max cross entropy (B,) of `logits` (B, classes) with integer labels (B,) or shares of classes (B, classes).

    Smoothing is linear in the targets: those of mixed images are smoothed as their labels would have been.
    """
    if targets.dtype.is_integer:
        targets = tf.one_hot(targets, logits.shape[-1])
    return keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=label_smoothing)


def build_model(recipe: Recipe, num_classes: int) -> keras.Model:
    """The recipe's model for its records' classes and its image size."""
    try:
        return tfvt.create_model(
            recipe.model.name,
            num_classes=num_classes,
            input_shape=(*recipe.data.train.image_size, 3),
            weights=recipe.model.weights,
            **recipe.model.options,
        )
    except (ValueError, OSError) as error:
        raise UsageError(f"model: {error}") from error
    except (tf.errors.OpError, MemoryError, OverflowError) as error:
        raise UsageError(
            f"model: {recipe.model.name} with model.options {recipe.model.options} does not fit into this machine's "
            f"memory ({type(error).__name__})"
        ) from error


def _copy(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
