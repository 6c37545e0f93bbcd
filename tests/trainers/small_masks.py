"""A set of images with masks, small enough to train on in a test: coloured boxes on grey, images of odd sizes."""

import io
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

from tfvt.data.records import MANIFEST, VOID, Manifest, Shard, make_example

CLASS_NAMES = ("ground", "red", "green", "blue", "unseen")
COLOURS = ((110, 110, 110), (220, 40, 40), (40, 200, 40), (40, 40, 220))
TINY = {
    "backbone": "resnet18",
    "backbone_options": {"width": 16, "depths": [1, 1, 1, 1]},
    "pyramid_channels": 16,
    "head_channels": 16,
}


def boxes(rng, height, width):
    """An image (H, W, 3) and its mask (H, W), with a void line around each box."""
    mask = np.zeros((height, width), np.uint8)
    for label in rng.permutation([1, 2, 3])[: rng.integers(1, 4)]:
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        h, w = rng.integers(12, height // 2 + 6), rng.integers(12, width // 2 + 6)
        mask[y : y + h, x : x + w] = VOID
        mask[y + 1 : y + h - 1, x + 1 : x + w - 1] = label
    image = np.array(COLOURS)[np.where(mask == VOID, 0, mask)] + rng.normal(0, 10, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_small_masks(directory, *, train=24, validation=7, seed=0):
    """Records of `CLASS_NAMES`, one shard a split. Returns `directory`."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, count in (("train", train), ("validation", validation)):
        path = directory / f"{split}-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index in range(count):
                height, width = rng.integers(40, 75, 2).tolist()
                image, mask = boxes(rng, height, width)
                writer.write(
                    make_example(
                        encoded=png(image),
                        format="PNG",
                        label=-1,
                        synset="",
                        text="",
                        height=height,
                        width=width,
                        channels=3,
                        colorspace="RGB",
                        filename=f"{split}-{index}.png".encode(),
                        mask=png(mask),
                    )
                )
        content = path.read_bytes()
        splits[split] = (Shard(name=path.name, records=count, bytes=len(content), crc32=zlib.crc32(content)),)
    manifest = Manifest(class_names=CLASS_NAMES, label_offset=0, splits=splits, source_sha256="0" * 64)
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return directory
