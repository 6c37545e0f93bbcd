"""Training steps that compute the insides of blocks twice, beside plain ones: memory and time, on both engines.

python -m benchmarks.rematerialization [NAME...]    (without names: MODELS)

A step is the forward pass, the cross entropy and the gradients of all weights, without the optimizer. Memory is, on
TensorFlow, what the step adds to the largest resident set of a process of its own; on JAX, the temporary memory of the
compiled step by XLA's own analysis.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import multiprocessing
import sys

import numpy as np

from benchmarks.timing import alternate, median_ratio, record

MODELS = ("vit_base16", "resnet50", "swin_tiny")
BATCH, CLASSES, ROUNDS = 8, 1000, 5
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype("float32")
LABELS = np.arange(BATCH) % CLASSES
KINDS = ("plain", "rematerialized")


def tensorflow_step(model, kind):
    """A compiled step without arguments."""
    import tensorflow as tf

    from tfvt.models.blocks import Rematerialized
    from tfvt.trainers.engines.tensorflow import checkpoint

    forward = Rematerialized(model, checkpoint) if kind == "rematerialized" else lambda x: model(x, training=True)
    images, labels, variables = tf.constant(IMAGES), tf.constant(LABELS), [v.value for v in model.trainable_variables]

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, forward(images)))
        return tape.gradient(loss, variables)

    return step


def jax_step(model, kind):
    """A compiled step without arguments, and the MiB that it takes besides weights and gradients."""
    import jax
    import keras

    from tfvt.models.blocks import Rematerialized
    from tfvt.trainers.engines.jax import KEEP_BARRIERS

    rematerialized = kind == "rematerialized"
    forward = Rematerialized(model, jax.checkpoint) if rematerialized else lambda x: model(x, training=True)
    trainable, others = model.trainable_variables, model.non_trainable_variables
    state = [[variable.value for variable in variables] for variables in (trainable, others)]

    def loss(weights, rest, images):
        with keras.StatelessScope([*zip(trainable, weights, strict=True), *zip(others, rest, strict=True)]) as scope:
            log_shares = jax.nn.log_softmax(forward(images))
        value = -jax.numpy.mean(log_shares[jax.numpy.arange(BATCH), LABELS])
        return value, [scope.get_current_value(variable) for variable in others]

    lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(*state, IMAGES)
    compiled = lowered.compile(compiler_options=KEEP_BARRIERS if rematerialized else None)
    temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(compiled(*state, IMAGES)), temporary


def network(name):
    import tfvt

    return tfvt.create_model(name, num_classes=CLASSES)


def resident_memory(name, kind):
    """MiB that two steps on TensorFlow add to a process with the model."""
    from tfvt.trainers.engines.memory import resident_peak

    step = tensorflow_step(network(name), kind)
    before = resident_peak()
    for _ in range(2):
        step()
    return resident_peak() - before


def tensorflow_slowdown(name):
    model = network(name)
    seconds = alternate({kind: tensorflow_step(model, kind) for kind in KINDS}, ROUNDS)
    return median_ratio(seconds, *KINDS[::-1], f"{name}, tensorflow")


def on_jax(name):
    """MiB of both kinds, and how many times as long the second takes."""
    model = network(name)
    steps = {kind: jax_step(model, kind) for kind in KINDS}
    seconds = alternate({kind: step for kind, (step, _) in steps.items()}, ROUNDS)
    return [memory for _, memory in steps.values()], median_ratio(seconds, *KINDS[::-1], f"{name}, jax")


def apart(backend, function, *arguments):
    """Call a function in a process of its own."""
    os.environ["KERAS_BACKEND"] = backend
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main(names):
    print(f"224x224, batch {BATCH}: MiB plain, MiB rematerialised, their ratio, times as long; TensorFlow, then JAX")
    for name in names or MODELS:
        memory = [apart("tensorflow", resident_memory, name, kind) for kind in KINDS]
        measured = [(memory, apart("tensorflow", tensorflow_slowdown, name)), apart("jax", on_jax, name)]
        for backend, (peaks, _) in zip(("tensorflow", "jax"), measured, strict=True):
            for kind, peak in zip(KINDS, peaks, strict=True):
                record(f"{name}, {backend}", f"memory, {kind}", [peak], "MiB")
        cells = [f"{plain:8.0f}{less:8.0f}{less / plain:7.2f}x{slow:7.2f}x" for (plain, less), slow in measured]
        print(f"{name:24}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
