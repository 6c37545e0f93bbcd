"""A made-up folder of images in the shape of ImageNet: many small JPEGs in 1,000 class folders, for the benchmarks.

python -m benchmarks.imagenet_shaped FOLDER [--images 20000]

ImageNet's training images are about 400 x 350 pixels and 110 kB on average, most of them 500 pixels wide. Here a few
hundred textured pictures are drawn and encoded to such sizes. Every file is one of them with a comment of its own after
the start marker, so that no two files are equal and making 20,000 of them takes seconds. Same arguments, same bytes.
"""

import argparse
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

CLASSES = 1000
PICTURES = 300
SIZES = ((500, 375), (375, 500), (500, 333), (500, 400), (500, 500), (400, 300), (640, 480), (320, 240))
SIZE_SHARES = (0.38, 0.12, 0.16, 0.08, 0.08, 0.08, 0.05, 0.05)
MEDIAN_BYTES, SPREAD = 105_000, 0.35  # of a log-normal distribution


def write_imagenet_shaped(root, images=20_000) -> Path:
    """Write `root/train/n<synset>/n<synset>_<number>.JPEG`, `images` files over 1,000 classes; returns `root`.

    A folder that an earlier call filled with as many images stays as it is.
    """
    root = Path(root)
    done = root.with_name(f"{root.name}.complete")
    if done.is_file() and done.read_text() == f"{images} images":
        return root
    pictures = [_picture(seed) for seed in track(range(PICTURES), "drawing pictures")]
    for index in track(range(images), "writing images"):
        synset = f"n{1_440_764 + 7919 * (index % CLASSES):08d}"
        folder = root / "train" / synset
        folder.mkdir(parents=True, exist_ok=True)
        comment = f"made-up image {index}".encode()
        picture = pictures[(index * 101 + index // CLASSES) % PICTURES]
        content = picture[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + picture[2:]
        (folder / f"{synset}_{index}.JPEG").write_bytes(content)
    done.write_text(f"{images} images")
    return root


def _picture(seed) -> bytes:
    """One encoded picture: blots of every scale, as rough as its share of bytes requires."""
    rng = np.random.default_rng(seed)
    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    target = MEDIAN_BYTES * np.exp(SPREAD * rng.standard_normal()) * width * height / (500 * 375)
    pixels = np.zeros((height, width, 3), np.float32)
    for exponent in range(1, 9):
        coarse = rng.uniform(-1, 1, (2**exponent, 2**exponent, 3)).astype(np.float32)
        octave = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in coarse.T]
        pixels += np.stack(octave, axis=-1) * 90 / exponent**0.7
    image = Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8))
    return min((_encode(image, quality) for quality in range(60, 100, 3)), key=lambda data: abs(len(data) - target))


def _encode(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=20_000)
    arguments = parser.parse_args()
    write_imagenet_shaped(arguments.folder, arguments.images)
