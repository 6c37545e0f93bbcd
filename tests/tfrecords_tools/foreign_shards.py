"""ImageNet-like shards as other projects write them: the features and values of their writers."""

from pathlib import Path

import tensorflow as tf
from image_files import encode, picture

CLASSES = (("n01440764", "tench"), ("n01443537", "goldfish"), ("n01484850", "crane"), ("n01491361", "crane"))


def _bytes(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _integers(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _floats(*values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def imagenet_to_gcs_features(index, label_offset=1) -> dict:
    """What `imagenet_to_gcs` of tensorflow/tpu writes: no human names."""
    number = index % len(CLASSES)
    return {
        "image/height": _integers(40),
        "image/width": _integers(50),
        "image/colorspace": _bytes(b"RGB"),
        "image/channels": _integers(3),
        "image/class/label": _integers(number + label_offset),
        "image/class/synset": _bytes(CLASSES[number][0].encode()),
        "image/format": _bytes(b"JPEG"),
        "image/filename": _bytes(f"{index}.JPEG".encode()),
        "image/encoded": _bytes(encode(picture(index, 40, 50))),
    }


def slim_features(index, label_offset=1) -> dict:
    """What slim's `build_imagenet_data` writes: human names, and any number of bounding boxes."""
    boxes = index % 3
    return imagenet_to_gcs_features(index, label_offset) | {
        "image/class/text": _bytes(CLASSES[index % len(CLASSES)][1].encode()),
        **{f"image/object/bbox/{side}": _floats(*[0.5] * boxes) for side in ("xmin", "xmax", "ymin", "ymax")},
        "image/object/bbox/label": _integers(*[index % len(CLASSES) + 1] * boxes),
    }


def serialize(features) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shards(folder, split, examples, shards=2):
    """`<split>-00000-of-0000N`, the examples dealt out in spans."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"{split}-{shard:05d}-of-{shards:05d}")) as writer:
            for example in examples[len(examples) * shard // shards : len(examples) * (shard + 1) // shards]:
                writer.write(example)
