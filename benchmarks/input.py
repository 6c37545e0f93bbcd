"""The input pipeline: rate beside bare decoding and other loaders, and the time to a resumed run's first batch.

python -m benchmarks.input [FOLDER]

FOLDER keeps the made-up images and records for the next call; without it they go into a temporary one.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import io
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.imagenet_shaped import write_imagenet_shaped
from benchmarks.timing import alternate, median_ratio, record
from tfvt.data import (
    ClassificationSamples,
    StreamSettings,
    TrainPreprocessing,
    decode_and_augment,
    open_records,
    train_stream,
)
from tfvt.data.records import ENCODED, LABEL, MANIFEST, Manifest, Shard, feature_spec, make_example
from tfvt.tfrecords_tools.cli import main as records_command

IMAGES, BATCH, ROUNDS = 3000, 100, 7
UNTIMED, TIMED = 12, 40  # batches: as many are ready ahead when the clock starts as when it stops
PREPROCESSING = TrainPreprocessing()
IMAGENET_SHARDS, IMAGENET_IMAGES = 1024, 1_281_167
AUTOTUNE = tf.data.AUTOTUNE


def bare(records):
    """Decode, crop, resize and flip with the same operations; no order, no names, stateful seeds."""

    def sample(serialized):
        features = tf.io.parse_single_example(serialized, feature_spec((ENCODED, LABEL)))
        seed = tf.random.uniform((2,), maxval=tf.int64.max, dtype=tf.int64)
        image = decode_and_augment(features[ENCODED], seed, PREPROCESSING)
        return {"image": image, "label": features[LABEL]}

    shards = tf.data.Dataset.from_tensor_slices(list(records.shard_paths)).repeat()
    serialized = shards.interleave(tf.data.TFRecordDataset, cycle_length=16, num_parallel_calls=AUTOTUNE)
    return serialized.map(sample, num_parallel_calls=AUTOTUNE).batch(BATCH).prefetch(AUTOTUNE)


def ours(records):
    """A block is a third of the set, since a large set has many blocks."""
    settings = StreamSettings(BATCH, block_size=IMAGES // 3)
    return train_stream(records, ClassificationSamples.of(records, PREPROCESSING), settings)


def official(records):
    """TensorFlow official models' reader, decoder and parser; shuffles the parsed records."""
    from official.core import input_reader
    from official.vision.configs import image_classification
    from official.vision.dataloaders import classification_input

    parser = classification_input.Parser(output_size=[224, 224], num_classes=1000, decode_jpeg_only=True)
    config = image_classification.DataConfig(
        input_path=str(records.directory / "train-*"),
        global_batch_size=BATCH,
        is_training=True,
        shuffle_buffer_size=IMAGES // 3,
    )
    reader = input_reader.InputReader(
        config,
        decoder_fn=classification_input.Decoder().decode,
        parser_fn=parser.parse_fn(is_training=True),
    )
    return reader.read()


def tfds(records, folder):
    """The same bytes as a TFDS dataset: TFDS reads and shuffles, tfvt decodes."""
    import tensorflow_datasets

    skip = {"image": tensorflow_datasets.decode.SkipDecoding()}
    builder_folder = Path(folder) / "tfds"
    if not builder_folder.exists():
        examples = tf.data.TFRecordDataset(list(records.shard_paths)).map(
            lambda serialized: tf.io.parse_single_example(serialized, feature_spec((ENCODED, LABEL)))
        )
        tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
            name="made_up",
            version="1.0.0",
            features=tensorflow_datasets.features.FeaturesDict(
                {"image": tensorflow_datasets.features.Image(), "label": tf.int64}
            ),
            split_datasets={
                "train": [
                    (key, {"image": io.BytesIO(example[ENCODED]), "label": example[LABEL]})
                    for key, example in enumerate(examples.as_numpy_iterator())
                ]
            },
            data_dir=str(builder_folder),
        )
    builder = tensorflow_datasets.builder("made_up", data_dir=str(builder_folder))

    def sample(features):
        seed = tf.random.uniform((2,), maxval=tf.int64.max, dtype=tf.int64)
        return {"image": decode_and_augment(features["image"], seed, PREPROCESSING), "label": features["label"]}

    stored = builder.as_dataset(split="train", shuffle_files=True, decoders=skip).shuffle(IMAGES // 3).repeat()
    return stored.map(sample, num_parallel_calls=AUTOTUNE).batch(BATCH).prefetch(AUTOTUNE)


def throughput(folder):
    """Steady rates over the same images."""
    output = Path(folder) / "records"
    if not (output / MANIFEST).exists():
        records_command(
            ["convert", str(write_imagenet_shaped(Path(folder) / "tree", IMAGES)), str(output), "--shards=16"]
        )
    records = open_records(output, "train")
    others = {}
    for name, make in (("official models", official), ("TFDS", lambda records: tfds(records, folder))):
        try:
            others[name] = make(records)
        except ImportError as error:
            print(f"left out: {name} ({error})")
    print(f"\n{IMAGES} made-up images like ImageNet's to 224x224, {os.cpu_count()} cores, {ROUNDS} rounds")
    print("pipeline          images/s   rate beside bare   processor ms an image, and beside bare")
    print_rates({"ours": ours(records), "bare": bare(records)})
    # In processes of their own: their buffers and threads slow down whatever runs after them in a process.
    print_rates({"bare": bare(records)} | others)


def print_rates(datasets):
    """Steady rates, one after the other, in alternating order: leftovers of one must not always hit the same one."""
    wall, work = ({name: [] for name in datasets} for _ in range(2))
    for round_number in range(ROUNDS):
        for name in list(datasets)[:: -1 if round_number % 2 else 1]:
            batches = iter(datasets[name])
            for _ in range(UNTIMED):
                next(batches)
            started = time.perf_counter(), time.process_time()
            for _ in range(TIMED):
                next(batches)
            wall[name].append(time.perf_counter() - started[0])
            work[name].append(time.process_time() - started[1])
            del batches
    for name in datasets:
        rate = TIMED * BATCH / statistics.median(wall[name])
        milliseconds = 1000 * statistics.median(work[name]) / TIMED / BATCH
        ratio = median_ratio(wall, "bare", name, "pipeline, wall clock")
        work_ratio = median_ratio(work, name, "bare", "pipeline, processor")
        print(f"{name:16}  {rate:8.0f}  {ratio:16.2f}x  {milliseconds:21.2f}  {work_ratio:13.2f}x")


def made_up_imagenet(folder):
    """ImageNet's number of shards and records, each a picture of one colour; every shard has the same bytes."""
    folder = Path(folder) / "imagenet"
    if not (folder / MANIFEST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(file, "JPEG")
        example = make_example(
            encoded=file.getvalue(), format="JPEG", label=0, synset="a", text="a", height=8, width=8, channels=3,
            colorspace="RGB", filename=b"a.jpg",
        )  # fmt: skip
        shards = []
        bounds = [IMAGENET_IMAGES * index // IMAGENET_SHARDS for index in range(IMAGENET_SHARDS + 1)]
        contents = {}
        for count in {end - begin for begin, end in itertools.pairwise(bounds)}:
            with tf.io.TFRecordWriter(str(folder / "shard")) as writer:
                for _ in range(count):
                    writer.write(example)
            contents[count] = (folder / "shard").read_bytes()
        (folder / "shard").unlink()
        for index, (begin, end) in enumerate(itertools.pairwise(bounds)):
            name = f"train-{index:05d}-of-{IMAGENET_SHARDS:05d}"
            (folder / name).write_bytes(contents[end - begin])
            shards.append(Shard(name, end - begin, len(contents[end - begin]), 0))
        manifest = Manifest(("a", "b"), 0, {"train": tuple(shards)}, source_sha256="")
        (folder / MANIFEST).write_text(manifest.to_json())
    return open_records(folder, "train")


def resume(folder):
    """From the call of `train_stream` to the first batch."""
    records = made_up_imagenet(folder)

    samples = ClassificationSamples.of(records, PREPROCESSING)

    def first_batch(start_step):
        return lambda: next(iter(train_stream(records, samples, StreamSettings(256), start_step=start_step)))

    seconds = alternate({step: first_batch(step) for step in (0, 1_000_000)}, ROUNDS)
    print(f"\n{len(records.shard_counts)} shards, {records.num_examples} small records, batches of 256")
    for step, times in seconds.items():
        record("resume", f"time to the first batch at step {step}", times, "s")
        print(f"step {step:9,}: first batch after {statistics.median(times):.2f} s (most {max(times):.2f} s)")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        chosen = sys.argv[1] if len(sys.argv) > 1 else temporary
        resume(chosen)
        throughput(chosen)
