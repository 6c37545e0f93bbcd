"""Two mirrored devices beside one, and JAX beside TensorFlow: the same recipe's steps on the same cores.

`python -m benchmarks.engines`. Each form has a process of its own, which waits while the others run: they take turns of
three steps, on one ready batch. The second table is of whole runs on records: which share of the steps' time they wait
for input.
"""

import csv
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import alternate, median_ms, median_ratio, record

STEPS, ROUNDS, SIZE = 3, 7, 96
BATCHES = (16, 64)
FORMS = {
    "TensorFlow, one device": ("tensorflow", 1),
    "TensorFlow, two mirrored": ("tensorflow", 2),
    "JAX, one device": ("jax", 1),
    "JAX, two mirrored": ("jax", 2),
}
RATIOS = [
    ("TensorFlow, two mirrored", "TensorFlow, one device"),
    ("JAX, two mirrored", "JAX, one device"),
    ("JAX, one device", "TensorFlow, one device"),
]
MODELS = ("resnet18", "vit_tiny16")


def flags(model, records, batch):
    return [
        f"--model.name={model}", f"--data.records={records}", f"--data.batch_size={batch}",
        f"--data.train.image_size=[{SIZE},{SIZE}]", f"--data.evaluation.image_size=[{SIZE},{SIZE}]",
    ]  # fmt: skip


def write_records(folder):
    """512 + 16 JPEGs of soft noise."""
    from tfvt.tfrecords_tools.convert import convert
    from tfvt.tfrecords_tools.sources import open_source

    rng = np.random.default_rng(0)
    for split, count in (("train", 512), ("val", 16)):
        for index in range(count):
            path = folder / "images" / split / f"class{index % 2}" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).resize((160, 160)).save(path, quality=90)
    convert(open_source(folder / "images"), folder / "records", shards=2)
    return folder / "records"


def steps_of(model, records, batch, devices):
    """A child process: steps on a ready batch, three for each line on stdin, and their seconds on stdout."""
    import tensorflow as tf

    from tfvt.trainers.engines import configure_process, make_engine
    from tfvt.trainers.recipes.parsing import parse_recipe
    from tfvt.trainers.tasks.classification import Classification

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    names = [f"CPU:{index}" for index in range(devices)]
    recipe = parse_recipe(
        [
            *flags(model, records, batch),
            f"--distribution.strategy={'mirrored' if devices > 1 else 'one_device'}",
            f"--distribution.devices=[{','.join(names)}]",
        ]
    )
    placed = configure_process(recipe)
    engine = make_engine(recipe, Classification(recipe), 100, placed)
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (batch, SIZE, SIZE, 3)), np.arange(batch) % 2
    ready = tf.data.Dataset.from_tensors({"image": images.astype("float32"), "label": labels.astype("int32")}).repeat()
    batches = engine.train_batches(lambda share: ready, lambda: None)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(STEPS):
            engine.train_steps(batches, 1)
        engine.read_sums("train")
        print(time.perf_counter() - began, flush=True)


def environment(backend, devices):
    virtual = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"KERAS_BACKEND": backend, "XLA_FLAGS": virtual, "TF_CPP_MIN_LOG_LEVEL": "3"}


def print_steps(model, records, batch):
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engines", model, str(records), str(batch), str(devices)],
            env=environment(backend, devices),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, (backend, devices) in FORMS.items()
    }

    def turn(child):
        child.stdin.write("\n")
        child.stdin.flush()
        float(child.stdout.readline())

    seconds = alternate({name: lambda child=child: turn(child) for name, child in children.items()}, ROUNDS)
    for child in children.values():
        child.stdin.close()
        child.wait()
    for name in FORMS:
        print(f"{model}, batch {batch}: {name}: {median_ms(seconds[name]) / STEPS:.1f} ms a step")
    for slow, fast in RATIOS:
        ratio = median_ratio(seconds, slow, fast, f"{model}, batch {batch}")
        print(f"{model}, batch {batch}: {slow} beside {fast}: {ratio:.3f}x the time")


def print_input_wait(model, records, folder):
    for backend in ("tensorflow", "jax"):
        output = folder / f"{model}-{backend}"
        command = [sys.executable, "-c", "import sys; from tfvt_cli import main; sys.exit(main())", "train"]
        command += [
            *flags(model, records, BATCHES[-1]),
            "--epochs=2",
            "--schedule.warmup_epochs=0",
            f"--output={output}",
        ]
        subprocess.run(command, env=environment(backend, 1), check=True, stdout=subprocess.DEVNULL)
        *_, row = csv.DictReader(io.StringIO((output / "metrics.csv").read_text()))
        speed, wait = float(row["images_per_second"]), float(row["input_wait"])
        record(model, f"share of the steps' time that waits for input, {backend}", [100 * wait], "%")
        print(f"{model}: {backend}: {speed:.0f} images/s, input wait {wait:.1%}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        records = write_records(Path(folder))
        for model in MODELS:
            for batch in BATCHES:
                print_steps(model, records, batch)
            print_input_wait(model, records, Path(folder))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        steps_of(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
