"""The demo's images, and (slow) the whole demo."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import digits, images

ROOT = Path(__file__).parent.parent


def test_images_are_always_the_same():
    first, second = (list(islice(images.samples(), 30)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        assert (a.split, a.label, a.file) == (b.split, b.label, b.file)
    assert len({a.pixels.tobytes() for a in first}) == 30


def test_no_digit_is_in_both_splits():
    splits = {}
    files = {"train": 0, "validation": 0}
    for sample in images.samples():
        splits.setdefault(sample.file.split("_")[0], set()).add(sample.split)
        files[sample.split] += 1
    assert len(splits) == 1797
    assert all(len(found) == 1 for found in splits.values())
    assert sum(found == {"validation"} for found in splits.values()) == 360
    assert files == {"train": 6 * 1437, "validation": 3 * 360}
    assert images.num_samples() == sum(files.values())


def test_a_digit_covers_half_to_three_quarters_of_the_frame():
    digit = np.ones((8, 8))
    for seed in range(200):
        ink = images.place(digit, np.random.default_rng(seed))
        rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
        for span in (rows, columns):
            assert 32 <= span[-1] - span[0] + 1 <= 48
    for sample in islice(images.samples(), 50):
        assert sample.pixels.shape == (64, 64, 3)
        background = sample.pixels[sample.ink < 0.01]
        assert background.max() <= 0.6 * 255 + 2  # dimmed: the digit is brighter than any photograph


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "PATH": str(Path(sys.executable).parent)}
    command = [sys.executable, "-m", "demo.digits"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "validation top-1" in result.stdout
    assert result.stdout.count(".png: ") == 10
    answers = [line for line in result.stdout.splitlines() if ".png: " in line]
    right = [Path(line.split(": ")[0]).parent.name == line.split(": ")[1].split()[0] for line in answers]
    assert sum(right) >= 8
    assert Image.open(tmp_path / digits.ROOT / "token_attention.png").size[0] > 500
