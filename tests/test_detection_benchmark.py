"""benchmarks/detection.py on tiny networks and few boxes: its rows."""

import keras
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the benchmark is of TensorFlow")
TINY = {
    "backbone_options": {"depths": (1, 1, 1, 1), "head_dim": 8, "class_token": False}, "pyramid_channels": 8,
    "tower_depth": 1,
}  # fmt: skip


def figures(printed, cells):
    """The last cells of each row of the printed tables, as numbers."""
    rows = [line.strip("| ").split(" | ")[-cells:] for line in printed.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[-1] != "wall clock"]
    return [[float(cell.removesuffix("x")) for cell in row] for row in rows]


def test_the_layers(capsys):
    from benchmarks import detection

    detection.nms(number=30, classes=3, rounds=1)
    detection.roi(side=64, number=5, channels=4, rounds=1)
    found = figures(capsys.readouterr().out, 4)
    assert len(found) == 3
    assert all(slow > 0 and fast > 0 and ratio > 0 and wall > 0 for slow, fast, ratio, wall in found)


def test_the_pairs_of_table_5(capsys):
    from benchmarks import detection

    detection.pairs(side=64, rounds=1, **TINY)
    found = figures(capsys.readouterr().out, 5)
    assert [paper for paper, *_ in found] == [1.3, 1.8]
    for _, slow, fast, ratio, _ in found:
        assert ratio == pytest.approx(slow / fast, rel=0.2)  # of rounded figures
