"""Small sets of images with masks, written straight from the schema, without the converter."""

import numpy as np
import tensorflow as tf
from record_files import encode, write_records

from tfvt.data.records import make_example
from tfvt.data.segmentation import SegmentationSamples, SegmentationTraining

PLAIN = {"scale": None, "scale_range": (1.0, 1.0), "flip": False, "photometric_distortion": False}


def scene(record_id, height=12, width=10):
    """An image whose pixels tell their row and column, and a mask of three classes and void."""
    rows, columns = np.indices((height, width))
    pixels = np.stack([rows * 5, columns * 5, np.full((height, width), record_id)], -1).astype(np.uint8)
    return pixels, np.random.default_rng(record_id).choice(np.array([0, 1, 2, 255], np.uint8), (height, width))


def pair(pixels, mask) -> bytes:
    """A record of an image and a mask, each as pixels or as encoded bytes; None: no mask."""
    encoded, mask = (part if isinstance(part, bytes | None) else encode(part) for part in (pixels, mask))
    return make_example(
        encoded=encoded, format="PNG", label=-1, synset="", text="", height=12, width=10, channels=3,
        colorspace="RGB", filename=b"", mask=mask,
    )  # fmt: skip


def write_masks(directory, shard_counts, *, replaced=None, scenes=scene):
    """A split "train" of scenes, of which `replaced` (id -> bytes) are something else."""
    pairs = {index: pair(*scenes(index)) for index in range(sum(shard_counts))}
    return write_records(directory, shard_counts, replaced=pairs | (replaced or {}))


def training_samples(pixels, mask, seeds, **settings):
    """What an image and its mask become under each seed, as NumPy arrays with a first axis."""
    samples, features = _samples_and_features(pixels, mask, settings)
    found = tf.data.Dataset.from_tensor_slices([[seed, 7] for seed in seeds])
    found = found.map(lambda seed: samples.decode(features, seed)).batch(len(seeds))
    return _sound(next(found.as_numpy_iterator()))


def training_sample(pixels, mask, seed=0, **settings):
    """The same of one seed, without that axis."""
    samples, features = _samples_and_features(pixels, mask, settings)
    sample = samples.decode(features, tf.constant([seed, 7]))
    return _sound({name: value.numpy() for name, value in sample.items()})


def _samples_and_features(pixels, mask, settings):
    """Without settings, nothing is random but the crop."""
    samples = SegmentationSamples(3, SegmentationTraining(**PLAIN | settings))
    encoded = [tf.constant(part if isinstance(part, bytes) else encode(part)) for part in (pixels, mask)]
    return samples, dict(zip(samples.features, encoded, strict=True))


def _sound(found):
    assert not found.pop("fault").any()
    return found
