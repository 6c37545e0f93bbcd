"""A set of records small enough to train on in a test: noise whose tint is its class."""

import io
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

from tfvt.data.records import MANIFEST, Manifest, Shard, make_example

CLASS_NAMES = ("red", "green", "blue", "grey", "black", "white")
TINTS = ((90, 0, 0), (0, 90, 0), (0, 0, 90), (0, 0, 0), (-90, -90, -90), (90, 90, 90))


def tinted_image(label: int, rng: np.random.Generator, size: int = 40) -> bytes:
    """A PNG file of class `label`."""
    pixels = 127 + np.array(TINTS[label]) + rng.normal(0, 20, (size, size, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_small_records(directory, *, train: int = 48, validation: int = 20, seed: int = 0):
    """Records of `CLASS_NAMES`, labels in turn, two shards a split. Returns `directory`."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    splits = {
        split: tuple(_write_shard(directory, f"{split}-{k:05d}-of-00002", count // 2, rng) for k in range(2))
        for split, count in (("train", train), ("validation", validation))
    }
    manifest = Manifest(class_names=CLASS_NAMES, label_offset=0, splits=splits, source_sha256="0" * 64)
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return directory


def _write_shard(directory, name, count, rng):
    path = directory / name
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index in range(count):
            label = index % len(CLASS_NAMES)
            writer.write(
                make_example(
                    encoded=tinted_image(label, rng),
                    format="PNG",
                    label=label,
                    synset=CLASS_NAMES[label],
                    text=CLASS_NAMES[label],
                    height=40,
                    width=40,
                    channels=3,
                    colorspace="RGB",
                    filename=f"{name}-{index}.png".encode(),
                )
            )
    content = path.read_bytes()
    return Shard(name=name, records=count, bytes=len(content), crc32=zlib.crc32(content))
