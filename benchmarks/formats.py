"""Files of other runtimes: size, latency and how near they are to Keras; the accuracy of a run's model in each.

python -m benchmarks.formats            the smallest model of each family, at 224x224
python -m benchmarks.formats RUN        the top-1 or like figures of a finished run in every format
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from benchmarks.timing import alternate, median_ms, median_ratio, record

NAMES = ("resnet18", "vt_resnet18", "acmix_resnet26", "vit_tiny16", "pvt_tiny", "swin_tiny", "acmix_swin_tiny", "san10")
FORMS = [(name, None) for name in ("onnx", "openvino", "litert")]
FORMS += [("onnx", "int8"), ("onnx", "dynamic"), ("openvino", "float16")]
FORMS += [("litert", quantize) for quantize in ("float16", "dynamic", "int8")]
THREADS, ROUNDS = 2, 11


def megabytes(path):
    """Of a file, or of all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files) / 1e6


def family(name):
    """Print a row for each format that holds the model."""
    import tensorflow as tf

    import tfvt
    from tfvt.trainers.export import RUNTIMES

    model = tfvt.create_model(name, input_shape=(224, 224, 3))
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 224, 224, 3)).astype("float32")
    infer = tf.function(lambda x: model(x, training=False), autograph=False)
    expected = np.asarray(infer(images[0]))
    calls = {"keras": lambda: infer(images[0])}
    rows = {"keras": (sum(w.numpy().nbytes for w in model.weights) / 1e6, 0.0)}
    with tempfile.TemporaryDirectory() as folder:
        for file_format, quantize in FORMS:
            label = " ".join(filter(None, (file_format, quantize)))
            write, open_file, place = RUNTIMES[file_format]
            more = {"calibration": list(images)} if quantize == "int8" else {}
            try:
                path = write(model, Path(folder) / label / place.format(""), quantize=quantize, **more)
            except ValueError as error:
                if quantize is None:
                    print(f"{name:16}{label:18}{error}")
                continue
            run = open_file(path, THREADS)
            (found,) = run(images[0]).values()
            rows[label] = megabytes(path), np.abs(found - expected).max() / np.abs(expected).max()
            calls[label] = lambda run=run: run(images[0])
        seconds = alternate(calls, ROUNDS)
    for label, (size, difference) in rows.items():
        record(name, f"size, {label}", [size], "MB")
        median_ratio(seconds, "keras", label, name)
        print(f"{name:16}{label:18}{size:10.1f}{median_ms(seconds[label]):10.1f}{difference:12.1e}", flush=True)


def accuracy(folder):
    """Print the figures of a run's model in every format that is offered for it."""
    from tfvt.export.quantization import check_quantization
    from tfvt.stores import as_path
    from tfvt.trainers.export import RUNTIMES
    from tfvt.trainers.export_accuracy import calibration_batches, compare
    from tfvt.trainers.serve import open_finished
    from tfvt.trainers.tasks import task_class

    _, recipe, model, serving = open_finished(as_path(folder), "tensorflow")
    task, network = task_class(recipe.model.name)(recipe), serving.network(model)
    with tempfile.TemporaryDirectory() as place:
        for file_format, quantize in FORMS:
            label = " ".join(filter(None, (file_format, quantize)))
            write, open_file, name = RUNTIMES[file_format]
            try:
                check_quantization(file_format, quantize, network)
            except ValueError:
                continue
            more = {"calibration": calibration_batches(task, model, network)} if quantize == "int8" else {}
            path = write(network, Path(place) / label / name.format(""), quantize=quantize, **more)
            of_keras, of_file = compare(task, model, network, label, open_file(path, THREADS))
            print(f"{of_keras}\n{of_file}, {megabytes(path):.2f} MB", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        accuracy(sys.argv[1])
    else:
        print(f"{'':34}{'size, MB':>10}{'ms':>10}{'difference':>12}   batch 1, {THREADS} threads, median of {ROUNDS}")
        for each in NAMES:
            family(each)
