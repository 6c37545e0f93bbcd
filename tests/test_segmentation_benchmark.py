"""benchmarks/segmentation.py on tiny networks: what it differentiates, and its rows."""

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the benchmark is of TensorFlow")
TINY = {
    "backbone_options": {"depths": (1, 1, 1, 1), "width": 8}, "pyramid_channels": 32, "head_channels": 32,
    "token_dim": 48, "query_groups": 4,
}  # fmt: skip
CHANNELS, SIDES = (32, 64, 128, 256), (17, 9, 5, 3)  # of the maps of an image of 65 pixels a side


def rows(printed):
    """By kind: its cells as numbers, of the only table."""
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    return {kind: [float(cell.removesuffix("x")) for cell in cells] for kind, *cells in lines[2:]}


def necks_by_macs():
    """FPN's multiply-adds in those of VT-FPN, by hand: 8 tokens of 48 channels a level, 32 channels, 4 groups."""
    laterals = sum(side**2 * channels * 32 for channels, side in zip(CHANNELS, SIDES, strict=True))
    pixels = sum(side**2 for side in SIDES)
    linears = 4 * 8 * (3 * 32 * 48 + 2 * 48 * 24 // 2 + 2 * 48 * 48)
    products = pixels * (32 * 32 // 4 + 4 * 8 * 32) + 32**2 * (24 + 48)
    return (laterals + pixels * 9 * 32 * 32) / (laterals + linears + products)


def test_a_table(capsys):
    """Figures of processor time and of the wall clock, next to what the multiply-adds allow."""
    from benchmarks import segmentation

    segmentation.necks(side=65, batch=2, rounds=1, **TINY)
    found = rows(capsys.readouterr().out)
    assert list(found) == ["inference", "training"]
    for slow, fast, ratio, by_macs, wall in found.values():
        assert min(slow, fast, wall) > 0
        assert ratio == pytest.approx(slow / fast, rel=0.2)  # of rounded figures
        assert by_macs == pytest.approx(necks_by_macs(), abs=0.005)


def test_every_weight_and_map_has_a_gradient():
    from benchmarks import segmentation

    weights, maps = segmentation.neck_call("vt_fpn_resnet50", 65, TINY, "training", 2)()
    assert [x.shape for x in maps] == [(2, s, s, c) for s, c in zip(SIDES, CHANNELS, strict=True)]
    weights += segmentation.model_call("vt_fpn_resnet50", 65, TINY | {"num_classes": 3}, "training", 2)()
    assert all(np.isfinite(x).all() for x in [*weights, *maps])
