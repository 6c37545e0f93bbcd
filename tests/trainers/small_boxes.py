"""A set of images with boxes, small enough to train on in a test: coloured rectangles on grey, images of odd sizes."""

import io
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

from tfvt.data.records import (
    BOX_AREA,
    BOX_CROWD,
    BOX_LABEL,
    BOX_MASK,
    BOX_XMAX,
    BOX_XMIN,
    BOX_YMAX,
    BOX_YMIN,
    MANIFEST,
    Manifest,
    Shard,
    make_example,
)

CLASS_NAMES = ("red", "green", "blue", "unseen")
COLOURS = ((220, 40, 40), (40, 200, 40), (40, 40, 220))
TINY = {
    "backbone": "resnet18",
    "backbone_options": {"width": 16, "depths": [1, 1, 1, 1]},
    "levels": ["P3", "P4"],
    "extra_levels": 0,
    "pyramid_channels": 32,
    "tower_depth": 1,
}


TINY_MASKS = {
    "backbone": "resnet18",
    "backbone_options": {"width": 16, "depths": [1, 1, 1, 1]},
    "levels": ["P2", "P3", "P4"],
    "level_norm": False,
    "pyramid_channels": 16,
    "proposals": 20,
    "training_proposals": 30,
    "sampled_anchors": 64,
    "sampled_proposals": 16,
}


def rectangles(rng, height, width):
    """An image (H, W, 3), boxes (N, 4), labels (N,) and whether each is a crowd."""
    image = np.full((height, width, 3), 110.0)
    boxes, labels = [], []
    for label in rng.permutation(3)[: rng.integers(1, 4)]:
        h, w = rng.integers(20, 36, 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        image[y : y + h, x : x + w] = COLOURS[label]
        boxes.append((y, x, y + h, x + w))
        labels.append(int(label))
    crowd = [int(place == 2) for place in range(len(boxes))]
    image += rng.normal(0, 10, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), np.array(boxes), labels, crowd


def within(box, height, width):
    """The mask of a whole box, bool (H, W)."""
    mask = np.zeros((height, width), bool)
    mask[box[0] : box[2], box[1] : box[3]] = True
    return mask


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def record(image, boxes, labels, crowd, name, masks=False):
    """A serialized record; `boxes` in pixels."""
    height, width = image.shape[:2]
    shares = np.reshape(boxes, (-1, 4)) / [height, width, height, width]
    objects = dict(zip((BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX), shares.T.tolist(), strict=True))
    objects |= {BOX_LABEL: labels, BOX_CROWD: crowd, BOX_AREA: [float((c - a) * (d - b)) for a, b, c, d in boxes]}
    if masks:
        objects[BOX_MASK] = [png(within(box, height, width)) for box in boxes]
    return make_example(
        encoded=png(image), format="PNG", label=-1, synset="", text="", height=height, width=width, channels=3,
        colorspace="RGB", filename=name.encode(), source_id=name, objects=objects,
    )  # fmt: skip


def write_small_boxes(directory, *, train=24, validation=7, seed=0, masks=False):
    """Records of `CLASS_NAMES`, one shard a split; image number 3 of each has no object. Returns `directory`."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, count in (("train", train), ("validation", validation)):
        path = directory / f"{split}-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index in range(count):
                image, boxes, labels, crowd = rectangles(rng, *rng.integers(56, 90, 2).tolist())
                if index == 3:
                    boxes, labels, crowd = np.zeros((0, 4)), [], []
                writer.write(record(image, boxes, labels, crowd, f"{split}-{index}", masks))
        content = path.read_bytes()
        splits[split] = (Shard(name=path.name, records=count, bytes=len(content), crc32=zlib.crc32(content)),)
    manifest = Manifest(class_names=CLASS_NAMES, label_offset=0, splits=splits, source_sha256="0" * 64)
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return directory
