"""The images and masks of the segmentation demo, and (slow) the whole demo."""

import math
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.utils import Bunch

from demo import segmentation, shapes
from tfrecords_tools.sources.layout import read_layout

ROOT = Path(__file__).parent.parent
SAMPLES = list(islice(shapes.samples(), 40))


def inside(shape, size):
    """Which pixels' middles (H, W) lie in a shape, by its geometry."""
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5 - shape.x, np.arange(height) + 0.5 - shape.y)
    name = shapes.CLASS_NAMES[shape.label]
    distance = np.hypot(x, y)
    if name == "disc":
        return distance <= shape.radius
    if name == "ring":
        return (distance <= shape.radius) & (distance >= 0.55 * shape.radius)
    if name == "star":
        radii = shape.radius * np.tile([1, 0.45], 5)
    else:
        radii = np.full({"triangle": 3, "square": 4}[name], shape.radius)
    first = math.pi / 4 if name == "square" else -math.pi / 2  # up
    corners = radii * np.exp(1j * (first + shape.angle + 2 * math.pi * np.arange(len(radii)) / len(radii)))
    outline = Outline(np.stack([corners.real, corners.imag], axis=-1))
    return outline.contains_points(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(size)


def exact_labels(sample):
    labels = np.zeros(sample.mask.shape, np.uint8)
    for shape in sample.shapes:
        labels[inside(shape, sample.mask.shape)] = shape.label
    return labels


def test_images_are_always_the_same():
    for first, second in zip(SAMPLES, shapes.samples(), strict=False):
        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(first.mask, second.mask)
        assert (first.split, first.file, first.shapes) == (second.split, second.file, second.shapes)
    assert len({sample.pixels.tobytes() for sample in SAMPLES}) == 40


@pytest.mark.parametrize("sample", SAMPLES[:12], ids=lambda sample: sample.file)
def test_each_pixel_has_the_class_of_the_uppermost_shape_there(sample):
    expected = exact_labels(sample)
    seen = sample.mask != 255
    np.testing.assert_array_equal(sample.mask[seen], expected[seen])


@pytest.mark.parametrize("sample", SAMPLES[:12], ids=lambda sample: sample.file)
def test_a_pixel_is_void_beside_another_class_and_nowhere_else(sample):
    expected = exact_labels(sample)
    void = sample.mask == 255
    beside = maximum_filter(expected, 3, mode="nearest") != minimum_filter(expected, 3, mode="nearest")
    np.testing.assert_array_equal(void, beside)
    assert 0.02 < void.mean() < 0.2


def test_every_class_occurs_and_half_of_every_shape_is_visible():
    counts, occluded = np.zeros(len(shapes.CLASS_NAMES)), 0
    for sample in SAMPLES:
        assert 2 <= len(sample.shapes) <= 5
        below = np.zeros((0, *sample.mask.shape), bool)
        areas = []
        for shape in sample.shapes:
            covered = inside(shape, sample.mask.shape)
            areas.append(covered.sum())
            below = np.concatenate([below & ~covered, covered[None]])
            counts[shape.label] += 1
        occluded += np.sum(below.sum(axis=(1, 2)) < areas)
        assert min(below.sum(axis=(1, 2)) / areas) >= 0.5
    assert counts[1:].min() > 15
    assert occluded > 40


def test_no_shape_and_no_pixel_of_a_photograph_is_in_both_splits(monkeypatch):
    photograph = np.zeros((427, 640, 3), np.uint8)
    photograph[:, 426:] = 255
    monkeypatch.setattr(shapes, "load_sample_images", lambda: Bunch(images=[photograph]))
    monkeypatch.setattr(shapes, "COUNTS", {"train": 20, "validation": 20})
    found = {"train": set(), "validation": set()}
    for sample in shapes.samples():
        background = sample.pixels[exact_labels(sample) == 0]
        assert np.median(background) == (0 if sample.split == "train" else 255)
        assert (background == np.median(background)).mean() > 0.9  # the others are at outlines
        found[sample.split] |= set(sample.shapes)
    assert min(map(len, found.values())) >= 40
    assert not found["train"] & found["validation"]


def test_the_folders_are_what_the_layout_says(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 3, "validation": 2})
    held_out = shapes.write_folders(tmp_path, tmp_path / "layout.yaml")
    layout = read_layout(tmp_path / "layout.yaml")
    assert layout.class_names == ("background", "disc", "star", "square", "ring", "triangle")
    assert layout.mask_ids == {**{label: label for label in range(6)}, 255: 255}
    assert [sample.file for sample in held_out] == ["0000", "0001"]
    for split, (images, masks) in layout.splits.items():
        assert sorted(path.name for path in (tmp_path / images).iterdir()) == sorted(
            path.name for path in (tmp_path / masks).iterdir()
        )
        assert len(list((tmp_path / images).iterdir())) == shapes.COUNTS[split]
    for sample in held_out:
        with Image.open(tmp_path / "validation" / "masks" / f"{sample.file}.png") as mask:
            assert mask.mode == "L"
            np.testing.assert_array_equal(np.asarray(mask), sample.mask)
        with Image.open(tmp_path / "validation" / "images" / f"{sample.file}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), sample.pixels)


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "PATH": str(Path(sys.executable).parent)}
    command = [sys.executable, "-m", "demo.segmentation"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / segmentation.ROOT
    miou = re.search(r"mIoU on shapes never seen\D+([\d.]+)%\D+([\d.]+)%", result.stdout).groups()
    assert min(map(float, miou)) >= 85
    assert result.stdout.count(": 128x96 pixels, ") == segmentation.SHOWN  # served answers
    for sample in islice((s for s in shapes.samples() if s.split == "validation"), 200):
        for neck in segmentation.NECKS:
            answer = folder / f"{neck}_predictions" / f"{sample.file}.png"
            if answer.exists():
                with Image.open(answer) as picture:
                    labels = np.asarray(picture)
                assert (labels == sample.mask)[sample.mask != 255].mean() > 0.85
    for picture in ("predictions.png", "token_attention.png", "records.png"):
        with Image.open(folder / picture) as image:
            assert image.size[0] > 500
