"""What only Swin has: its options, pyramid, sizes, windows."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt

TINY = {"depths": (2, 1), "width": 16, "head_dim": 8, "window_size": 4}


@pytest.mark.parametrize("name", ["acmix_swin_tiny", "conv_swin_tiny"])
def test_mixers(name):
    contracts.check_model(name, **TINY)


@pytest.mark.parametrize("options", [{"shift": "fixed", "combine": "alpha"}, {"combine": "convolution"}], ids=str)
def test_acmix_options(options):
    contracts.check_model("acmix_swin_tiny", **TINY | options)


def test_every_second_block_is_shifted():
    model = tfvt.create_model("swin_tiny", input_shape=(64, 64, 3))
    shifts = [layer.shift_size for layer in model.layers if type(layer).__name__ == "SwinBlock"]
    assert shifts == [0, 3] * 6


@pytest.mark.parametrize("name", ["swin_tiny", "acmix_swin_tiny"])
def test_any_size(name):
    contracts.check_sizes(name, [(64, 64), (33, 127), (4, 50)], **TINY)


def test_pyramid():
    contracts.check_features("swin_tiny", {"P2": 4, "P3": 8}, size=(97, 130), **TINY)
    contracts.check_features("swin_tiny", {"P5": 32}, size=(65, 64), **TINY | {"depths": (1, 1, 1, 1)})


def test_bias_tables_of_other_windows_are_resampled():
    small, large = (
        tfvt.create_model("swin_tiny", input_shape=(64, 64, 3), **TINY | {"window_size": w}) for w in (4, 6)
    )
    weights = {w.path: contracts.arrays(w)[0] for w in small.weights}
    report = tfvt.load_checkpoint(large, weights, source="tfvt")
    tables = {w.path for w in large.weights if w.path.endswith("bias_table")}
    assert set(report.resampled) == tables
    before, table = (
        contracts.arrays(model.get_layer("stage1_block1").mix.bias_table)[0].reshape(side, side, -1)
        for model, side in ((small, 7), (large, 11))
    )
    np.testing.assert_allclose(table[5, 5], before[3, 3], atol=1e-6)  # no distance stays no distance


@pytest.mark.parametrize(("options", "message"), [
    ({"depths": ()}, r"depths=\(\): expected at least one stage"),
    ({"width": 16}, "width=16: expected a multiple of head_dim=32"),
    ({"width": 50}, "width=50: expected a multiple of head_dim=32"),
    ({"combine": "alpha"}, "combine='alpha' is for mixer='acmix', not 'attention'"),
    ({"input_shape": (3, 64, 3)}, "height 3 is below 4"),
    ({"features": ("P1",)}, "features='P1': expected one of 'P2', 'P3', 'P4', 'P5'"),
])  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tfvt.create_model("swin_tiny", **options)
