"""Augmentation beside TensorFlow official models': images per second of one thread, at 224x224.

python -m benchmarks.augment [policies | operations | mixing]
"""

import os
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.timing import alternate, median_ms, median_ratio
from tfvt.data import augment, mixing

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from official.vision.ops import augment as official

IMAGES, BATCH, SIZE = 64, 32, 224
ROUNDS = 15


def photos():
    """uint8 (IMAGES, SIZE, SIZE, 3): crops of two photographs, whose histograms and edges are natural."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    crops = []
    for number in range(IMAGES):
        photo = load_sample_images().images[number % 2]
        y, x = (rng.integers(0, length - SIZE) for length in photo.shape[:2])
        crops.append(photo[y : y + SIZE, x : x + SIZE])
    return np.stack(crops)


def one_thread(elements, function):
    """A call that gives the next `len(elements)` results of `function(element, index)`, worked out in one thread."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False  # compute nothing before it is needed
    dataset = tf.data.Dataset.from_tensor_slices(elements).repeat().enumerate()
    dataset = dataset.map(lambda index, element: function(element, index)).with_options(options)
    # One iterator for all rounds: a new one would prepare the graph again.
    iterator = iter(dataset)

    def run():
        for _ in range(len(elements)):
            next(iterator)

    return run


def seed(index):
    return tf.stack([index, 0])


def show(table, calls, images, pairs):
    seconds = alternate(calls, ROUNDS)
    for name, ours, theirs in pairs:
        rates = [1000 * images / median_ms(seconds[call]) for call in (ours, theirs)]
        ratio = median_ratio(seconds, theirs, ours, table)
        print(f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} | {ratio:.1f}x |", flush=True)


def policies(pixels):
    print(f"\n| one image {SIZE}x{SIZE} | ours, images/s | official models, images/s | |\n|---|---|---|---|")
    floats = pixels.astype(np.float32)
    theirs = {
        "AutoAugment v0": (pixels, official.AutoAugment("v0")),
        "RandAugment(2, 9)": (pixels, official.RandAugment(2, 9.0)),
        "random erasing of every image": (floats, official.RandomErasing(1.0)),
    }
    ours = {
        "AutoAugment v0": (pixels, augment.auto_augment),
        "RandAugment(2, 9)": (pixels, augment.rand_augment),
        "random erasing of every image": (
            floats,
            lambda image, seed: augment.random_erasing(image, seed, probability=1.0),
        ),
    }
    calls = {"nothing": one_thread(pixels, lambda image, index: image)}
    for name, (elements, augmenter) in theirs.items():
        calls[f"theirs {name}"] = one_thread(elements, lambda image, index, a=augmenter: a.distort(image))
    for name, (elements, function) in ours.items():
        calls[f"ours {name}"] = one_thread(elements, lambda image, index, f=function: f(image, seed(index)))
    show("policies", calls, IMAGES, [(name, f"ours {name}", f"theirs {name}") for name in ours])


def operations(pixels):
    print("\n| operation, level 6 | ours, images/s | official models, images/s | |\n|---|---|---|---|")
    calls, pairs = {}, []
    center = tf.constant((0.4, 0.6))
    for name, operation in augment.operations(translate_pixels=100.0).items():
        function, _, arguments = official._parse_policy_info(name, 1.0, 6.0, [128] * 3, 40.0, 100.0)
        value, _ = augment.arguments([operation], 0, 6.0)
        calls[f"ours {name}"] = one_thread(pixels, lambda image, _, o=operation, v=value: o.apply(image, v, center))
        calls[f"theirs {name}"] = one_thread(pixels, lambda image, _, f=function, a=arguments: f(image, None, *a)[0])
        pairs.append((name, f"ours {name}", f"theirs {name}"))
    show("operations", calls, IMAGES, pairs)


def mixes(pixels):
    print(f"\n| batches of {BATCH} | ours, images/s | official models, images/s | |\n|---|---|---|---|")
    batches = pixels.astype(np.float32).reshape(-1, BATCH, SIZE, SIZE, 3)
    labels = tf.range(BATCH)
    calls, pairs = {}, []
    for name, alphas in {"MixUp": {"mixup_alpha": 0.8}, "CutMix": {"cutmix_alpha": 1.0}}.items():
        recipe = mixing.Mixing(**alphas)
        augmenter = official.MixupAndCutmix(1000, **{"mixup_alpha": 0.0, "cutmix_alpha": 0.0} | alphas)
        calls[f"ours {name}"] = one_thread(
            batches, lambda images, index, m=recipe: mixing.mix_batch(images, labels, 1000, seed(index), m)
        )
        calls[f"theirs {name}"] = one_thread(batches, lambda images, _, a=augmenter: a(images, labels))
        pairs.append((name, f"ours {name}", f"theirs {name}"))
    show("mixing", calls, IMAGES, pairs)


TABLES = {"policies": policies, "operations": operations, "mixing": mixes}

if __name__ == "__main__":
    pixels = photos()
    for table in sys.argv[1:] or TABLES:
        TABLES[table](pixels)
