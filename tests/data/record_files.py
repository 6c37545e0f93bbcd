"""Small record sets, written straight from the schema, without the converter."""

import io
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from tfvt.data.classification import ClassificationSamples
from tfvt.data.images import EvalPreprocessing, TrainPreprocessing
from tfvt.data.records import MANIFEST, Manifest, Shard, make_example, open_records
from tfvt.data.stream import WHOLE, StreamSettings, eval_stream, train_stream

CLASS_NAMES = ("cat", "dog", "emu")
SMALL = TrainPreprocessing((8, 6))


def train_batches(records, *, mixing=None, share=WHOLE, start_step=0, **settings):
    """The training stream of small images."""
    samples = ClassificationSamples.of(records, SMALL, mixing)
    return train_stream(records, samples, StreamSettings(**settings), share, start_step)


def batches(records, count, **options):
    """The first batches of the training stream, as NumPy arrays."""
    return list(train_batches(records, **options).take(count).as_numpy_iterator())


def eval_batches(records, image_size=(8, 8), share=WHOLE, **settings):
    """The evaluation's batches."""
    samples = ClassificationSamples.of(records, EvalPreprocessing(image_size))
    return eval_stream(records, samples, StreamSettings(**settings), share)


def encode(pixels, kind="PNG", mode=None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(file, kind, **options)
    return file.getvalue()


def picture(record_id, height=12, width=10):
    """Pixels that no other record has."""
    return np.random.default_rng(record_id).integers(0, 256, (height, width, 3), np.uint8)


def record(record_id, *, label_offset=0, label=None, encoded=None, **more) -> bytes:
    return make_example(
        encoded=encode(picture(record_id)) if encoded is None else encoded,
        format="PNG",
        label=record_id % 3 + label_offset if label is None else label,
        synset=CLASS_NAMES[record_id % 3],
        text=CLASS_NAMES[record_id % 3],
        height=12,
        width=10,
        channels=3,
        colorspace="RGB",
        filename=f"{record_id}.png".encode(),
        **more,
    )


def write_records(directory, shard_counts, *, label_offset=0, replaced=None):
    """A split "train" of sum(shard_counts) records, of which `replaced` (id -> bytes) are something else."""
    directory = Path(directory)
    directory.mkdir(exist_ok=True)
    shards, record_id = [], 0
    for index, count in enumerate(shard_counts):
        path = directory / f"train-{index:05d}-of-{len(shard_counts):05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(count):
                writer.write((replaced or {}).get(record_id) or record(record_id, label_offset=label_offset))
                record_id += 1
        content = path.read_bytes()
        shards.append(Shard(path.name, count, len(content), zlib.crc32(content)))
    manifest = Manifest(CLASS_NAMES, label_offset, {"train": tuple(shards)}, source_sha256="")
    (directory / MANIFEST).write_text(manifest.to_json())
    return open_records(directory, "train")
