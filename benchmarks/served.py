"""The network within a SavedModel beside onnxruntime and OpenVINO on the exported ONNX, and TensorFlow beside JAX.

python -m benchmarks.served [NAME ...] [cpu] [backends]

`cpu` counts the processor's time with one thread each: other jobs hardly change it. Otherwise two threads, by the clock
on the wall. `backends` compares the inference of both backends of Keras, each in a process of its own.
"""

import os
import sys

CPU = "cpu" in sys.argv[1:]
THREADS = 1 if CPU else 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ |= {name: str(THREADS) for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}

import statistics
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks.timing import alternate, median_ms, median_ratio

NAMES = ("vit_base16", "resnet50", "vt_resnet50")
BATCHES, ROUNDS = (1, 8), 11
CLOCK = time.process_time if CPU else time.perf_counter


def images(batch):
    return np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3)).astype("float32")


def saved_model(model, folder):
    """A function of the network as `tfvt.export.export_saved_model` writes it, without decoding."""
    import tensorflow as tf

    import tfvt

    fused, module = tfvt.fuse(model), tf.Module()
    module.weights = [variable.value for variable in fused.variables]
    pixels = tf.TensorSpec((None, 224, 224, 3), name="image")
    signature = tf.function(lambda image: {"logits": fused(image, training=False)}, input_signature=[pixels])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})
    loaded = tf.saved_model.load(str(folder))
    return lambda x: loaded.signatures["serving_default"](image=tf.constant(x))["logits"]  # holds `loaded`


def served(name):
    """Print a row for each runtime."""
    import tfvt
    from tfvt.trainers.export import RUNTIMES

    model = tfvt.create_model(name, input_shape=(224, 224, 3))
    with tempfile.TemporaryDirectory() as folder:
        runs = {"SavedModel": saved_model(model, Path(folder) / "saved")}
        for file_format in ("onnx", "openvino"):
            write, open_file, place = RUNTIMES[file_format]
            run = open_file(write(model, Path(folder) / place.format("")), THREADS)
            runs[file_format] = lambda x, run=run: next(iter(run(x).values()))
        expected = np.asarray(runs["SavedModel"](images(1)))
        for batch in BATCHES:
            x = images(batch)
            seconds = alternate({label: lambda run=run, x=x: run(x) for label, run in runs.items()}, ROUNDS, CLOCK)
            for label, run in runs.items():
                difference = np.abs(np.asarray(run(images(1))) - expected).max() / np.abs(expected).max()
                ratio = median_ratio(seconds, label, "SavedModel")
                row = f"{name:14}{batch:6}  {label:12}{median_ms(seconds[label]):10.1f}"
                print(f"{row}{ratio:10.3f}x{difference:12.1e}", flush=True)


def backends(name):
    """Print the inference of both backends, median over processes that alternate."""
    seconds = {backend: [] for backend in ("tensorflow", "jax")}
    arguments = ["cpu"] if CPU else []
    for _ in range(3):
        for backend, values in seconds.items():
            command = [sys.executable, "-m", "benchmarks.served", "one", name, *arguments]
            environment = os.environ | {"KERAS_BACKEND": backend}
            if CPU:
                environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            values.append(float(output.split()[-1]))
    ratio = statistics.median(a / b for a, b in zip(seconds["tensorflow"], seconds["jax"], strict=True))
    print(f"{name:14}JAX is {ratio:.3f} times as fast as TensorFlow", flush=True)


def one(name):
    """Print the seconds of one batch of 8 on the backend of this process."""
    import keras

    import tfvt

    model, x = tfvt.create_model(name), images(8)
    if keras.backend.backend() == "jax":
        import jax

        weights = [
            [variable.value for variable in v] for v in (model.trainable_variables, model.non_trainable_variables)
        ]
        infer = jax.jit(lambda *given: model.stateless_call(*given, training=False)[0])
        seconds = alternate({"": lambda: infer(*weights, x).block_until_ready()}, 7, CLOCK)
    else:
        import tensorflow as tf

        infer = tf.function(lambda: model(tf.constant(x), training=False), autograph=False)
        seconds = alternate({"": infer}, 7, CLOCK)
    print(median_ms(seconds[""]) / 1000)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    words = [word for word in sys.argv[1:] if word not in ("cpu", "one", "backends")]
    if "one" in sys.argv:
        one(*words)
        raise SystemExit
    if "backends" not in sys.argv:
        print(f"{THREADS} threads, median of {ROUNDS}: ms, how many times as fast SavedModel is, difference of logits")
        for each in words or NAMES:
            served(each)
    for each in words or NAMES:
        backends(each)
