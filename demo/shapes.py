"""Images to segment, made from scikit-learn's photographs: shapes of tinted photograph that hide parts of each other.

A shape's outline tells its class. Its colour does so only in part: a third of the hues belong to two classes. Training
images have the left two thirds of each photograph, validation images the rest.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from matplotlib.colors import hsv_to_rgb
from PIL import Image
from rich.progress import track
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.datasets import load_sample_images

SHAPES = {"disc": (14, 28), "star": (20, 42), "square": (16, 34), "ring": (16, 32), "triangle": (20, 42)}  # radii
CLASS_NAMES = ("background", *SHAPES)
VOID = 255  # of the mask: pixels at an outline, which belong to two classes
COUNTS = {"train": 2400, "validation": 200}
SIZES = ((96, 128), (128, 96), (128, 128))  # height, width
PARTS = {"train": (0, 2 / 3), "validation": (2 / 3, 1)}  # of a photograph's width
NUM_SHAPES = (2, 5)  # in an image, at least and at most
HOLE = 0.55  # radius of a ring's hole, of the ring's
CORNERS = {  # their number, where the side between two is nearest to the centre (of the radius), the first one's angle
    "square": (4, math.cos(math.pi / 4), math.pi / 4),
    "triangle": (3, math.cos(math.pi / 3), -math.pi / 2),
    "star": (5, 0.45, -math.pi / 2),
}
VISIBLE = 0.5  # of a shape, at least
SCALE = (0.5, 1.3)  # pixels of a photograph that become one
HUES = 0.12  # of a turn to either side of a class's own hue, which are 0.2 apart
COLORS = 4  # drawn for a shape, of which one is taken
TURN = 0.4  # radians to either side, at most
TINT = 0.6  # share of that colour, beside the photograph's


@dataclass(frozen=True)
class Shape:
    """Its class, its middle (pixels from the left and the top), its corners' distance from there, its turn."""

    label: int
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Sample:
    """One image and the classes of its pixels."""

    split: str
    file: str
    pixels: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) uint8
    shapes: tuple[Shape, ...]  # each hides what it covers of those before it


def samples(seed=0):
    """Every image, always the same for one seed. No shape and no pixel of a photograph is in both splits."""
    photographs = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number, split in enumerate(COUNTS):
        first, last = PARTS[split]
        parts = [p.crop((int(first * p.width), 0, int(last * p.width), p.height)) for p in photographs]
        for index in range(COUNTS[split]):
            yield draw(split, index, parts, np.random.default_rng((seed, number, index)))


def draw(split, index, photographs, rng):
    """One image."""
    size = SIZES[rng.integers(len(SIZES))]
    pixels, labels = patch(photographs, size, rng), np.zeros(size, np.uint8)
    placed = place(size, rng)
    for shape, outside in placed:
        fill = tinted(patch(photographs, size, rng), shape.label, pixels[outside <= 0].mean(axis=0), rng)
        pixels += (fill - pixels) * np.clip(0.5 - outside, 0, 1)[..., None]
        labels[outside <= 0] = shape.label
    outline = maximum_filter(labels, 3, mode="nearest") != minimum_filter(labels, 3, mode="nearest")
    mask = np.where(outline, VOID, labels).astype("uint8")
    return Sample(split, f"{index:04d}", pixels.round().astype("uint8"), mask, tuple(shape for shape, _ in placed))


def place(size, rng):
    """Shapes of which at least `VISIBLE` is to be seen, the hindmost first, and their distances."""
    wanted = rng.integers(NUM_SHAPES[0], NUM_SHAPES[1] + 1)
    placed, seen, areas = [], [], []
    while len(placed) < wanted:
        label = int(rng.integers(1, len(CLASS_NAMES)))
        radius = rng.uniform(*SHAPES[CLASS_NAMES[label]])
        y, x = (rng.uniform(0.7 * radius, side - 0.7 * radius) for side in size)
        shape = Shape(label, x, y, radius, rng.uniform(-TURN, TURN))
        outside = distance(shape, size)
        left = [before & (outside > 0) for before in seen]
        if all(now.sum() >= VISIBLE * area for now, area in zip(left, areas, strict=True)):
            placed.append((shape, outside))
            seen = [*left, outside <= 0]
            areas.append(seen[-1].sum())
    return placed


def distance(shape, size):
    """Pixels from each pixel's middle (H, W) to a shape's outline, negative inside."""
    y, x = (np.arange(side) + 0.5 for side in size)
    x, y = x - shape.x, y[:, None] - shape.y
    from_center = np.hypot(x, y)
    name = CLASS_NAMES[shape.label]
    if name not in CORNERS:
        outer = from_center - shape.radius
        return np.maximum(outer, HOLE * shape.radius - from_center) if name == "ring" else outer
    corners, inner, first = CORNERS[name]
    # A corner and the half sides next to it repeat all round, and are each other's mirror image.
    sector = math.pi / corners
    turn = abs((np.arctan2(y, x) - first - shape.angle + sector) % (2 * sector) - sector)
    side = np.array([inner * math.cos(sector) - 1, inner * math.sin(sector)])  # from the corner at (radius, 0)
    across = np.array([side[1], -side[0]]) / np.hypot(*side)
    return (from_center * np.cos(turn) - shape.radius) * across[0] + from_center * np.sin(turn) * across[1]


def patch(photographs, size, rng):
    """A part of one of the photographs, float (H, W, 3) in 0..255, enlarged or reduced to `size`."""
    photograph = photographs[rng.integers(len(photographs))]
    height, width = size
    scale = rng.uniform(*SCALE)
    w, h = int(width * scale), int(height * scale)
    x, y = int(rng.integers(0, photograph.width - w + 1)), int(rng.integers(0, photograph.height - h + 1))
    part = photograph.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(part, dtype="float64")


def tinted(pixels, label, hidden, rng):
    """Pixels (H, W, 3) under the one of a few colours that differs most from the mean (3,) of what they will hide."""
    hue = (label - 1) / len(SHAPES) + rng.uniform(-HUES, HUES, COLORS)
    colors = 255 * hsv_to_rgb(np.stack([hue % 1, *rng.uniform(0.4, 1, (2, COLORS))], axis=-1))
    means = TINT * colors + (1 - TINT) * pixels.mean(axis=(0, 1))
    return TINT * colors[abs(means - hidden).sum(axis=1).argmax()] + (1 - TINT) * pixels


def write_folders(folder: Path, layout_file: Path):
    """Write `folder/<split>/{images,masks}/<file>.png` and their layout, and return the held-out samples."""
    held_out = []
    for sample in track(samples(), description="Drawing images", total=sum(COUNTS.values())):
        for kind, array in (("images", sample.pixels), ("masks", sample.mask)):
            path = folder / sample.split / kind / f"{sample.file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        if sample.split == "validation":
            held_out.append(sample)
    layout = {
        "splits": {split: {kind: f"{split}/{kind}" for kind in ("images", "masks")} for split in COUNTS},
        "void_label": VOID,
        "classes": dict(enumerate(CLASS_NAMES)),
    }
    layout_file.write_text(yaml.safe_dump(layout, sort_keys=False), encoding="utf-8")
    return held_out
