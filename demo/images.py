"""Images to classify, made from scikit-learn's data: handwritten digits on patches of photographs.

Each of the 1,797 scanned digits is placed several times, at a random position and scale (half to three quarters
of the frame), on a softened and dimmed patch of one of two photographs: something to find, something to ignore.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from rich.progress import track
from sklearn.datasets import load_digits, load_sample_images

FRAME = 64  # pixels, height and width
PLACEMENTS = {"train": 6, "validation": 3}  # of each digit
VALIDATION_EVERY = 5  # every fifth digit is held out, with all its placements


@dataclass(frozen=True)
class Sample:
    """One image, where the digit's ink is in it, and what it shows."""

    split: str
    label: int
    file: str
    pixels: np.ndarray  # (FRAME, FRAME, 3) uint8
    ink: np.ndarray  # (FRAME, FRAME), share of ink, 0..1


def samples(seed=0):
    """Every image, always the same for one seed. No digit has placements in both splits."""
    digits = load_digits()
    photographs = [Image.fromarray(photo) for photo in load_sample_images().images]
    for index, (digit, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "validation" if index % VALIDATION_EVERY == 0 else "train"
        for placement in range(PLACEMENTS[split]):
            rng = np.random.default_rng((seed, index, placement))
            ink = place(digit / 16, rng)
            background = patch(photographs[rng.integers(len(photographs))], rng)
            pixels = background * (1 - ink[..., None]) + 255 * ink[..., None]
            file = f"digit{index:04d}_{placement}.png"
            yield Sample(split, int(label), file, pixels.round().astype("uint8"), ink)


def place(digit, rng):
    """A digit (8, 8) in 0..1, enlarged smoothly and placed at random in an empty frame."""
    side = int(rng.integers(FRAME // 2, FRAME * 3 // 4 + 1))
    large = Image.fromarray((digit * 255).astype("uint8")).resize((side, side), Image.Resampling.BICUBIC)
    y, x = rng.integers(0, FRAME - side + 1, 2)
    frame = np.zeros((FRAME, FRAME))
    frame[y : y + side, x : x + side] = np.asarray(large) / 255
    return frame


def patch(photograph, rng):
    """A softened, dimmed part of a photograph, float (FRAME, FRAME, 3) in 0..255."""
    side = int(rng.integers(FRAME, 4 * FRAME))
    x, y = (int(rng.integers(0, length - side)) for length in photograph.size)
    part = photograph.crop((x, y, x + side, y + side)).resize((FRAME, FRAME), Image.Resampling.BILINEAR)
    return np.asarray(part.filter(ImageFilter.GaussianBlur(1)), dtype="float64") * 0.6


def write_folders(folder: Path):
    """Write `folder/<split>/<digit>/<file>` for every sample and return the held-out samples."""
    held_out = []
    for sample in track(samples(), description="Drawing images", total=num_samples()):
        path = folder / sample.split / str(sample.label) / sample.file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.pixels).save(path)
        if sample.split == "validation":
            held_out.append(sample)
    return held_out


def num_samples():
    """How many samples there are."""
    digits = len(load_digits().target)
    held_out = len(range(0, digits, VALIDATION_EVERY))
    return held_out * PLACEMENTS["validation"] + (digits - held_out) * PLACEMENTS["train"]
