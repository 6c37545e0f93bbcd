"""Small sets of images with boxes, written straight from the schema, without the converter."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image
from record_files import encode, write_records

from tfvt.data.detection import DetectionSamples, DetectionTraining
from tfvt.data.records import (
    BOX_AREA,
    BOX_CROWD,
    BOX_LABEL,
    BOX_MASK,
    BOX_XMAX,
    BOX_XMIN,
    BOX_YMAX,
    BOX_YMIN,
    feature_spec,
    make_example,
)

PLAIN = {"short_sides": (1000,), "max_long_side": 1000, "flip": False}  # as large as fits into the image size


def objects_of(size, boxes, labels=None, **more):
    """Lists of a record: boxes (y1, x1, y2, x2) in pixels of an image of that size."""
    shares = np.reshape(boxes, (-1, 4)) / np.tile(size, 2)
    lists = dict(zip((BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX), shares.T.tolist(), strict=True))
    lists[BOX_LABEL] = list(range(len(shares))) if labels is None else labels
    names = {"crowd": BOX_CROWD, "area": BOX_AREA, "masks": BOX_MASK}
    return lists | {names[name]: values for name, values in more.items()}


def box_record(pixels, objects, source_id="17", label=-1, mask=None) -> bytes:
    """A record of an image, as pixels or as encoded bytes, with lists of objects."""
    encoded = pixels if isinstance(pixels, bytes) else encode(pixels)
    return make_example(
        encoded=encoded, format="PNG", label=label, synset="", text="", height=12, width=10, channels=3,
        colorspace="RGB", filename=b"", mask=mask, source_id=source_id, objects=objects,
    )  # fmt: skip


def one_bit(mask) -> bytes:
    """A mask (H, W), true inside, as records hold it."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask, bool)).save(file, "PNG")
    return file.getvalue()


def write_boxes(directory, shard_counts, records):
    """A split "train" of serialized records."""
    return write_records(directory, shard_counts, replaced=dict(enumerate(records)))


def decoded(serialized, seeds=(0,), masks=False, num_classes=3, **settings):
    """What a record becomes under each seed in training: a list of samples of NumPy arrays."""
    samples = DetectionSamples(num_classes, 0, DetectionTraining(**PLAIN | settings), masks)
    features = tf.io.parse_single_example(serialized, feature_spec(samples.features))
    found = tf.data.Dataset.from_tensor_slices([[seed, 7] for seed in seeds])
    found = list(found.map(lambda seed: samples.decode(features, seed)).as_numpy_iterator())
    assert not any(sample.pop("fault") for sample in found)
    return found
