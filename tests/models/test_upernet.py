"""UPerNet: the contract, any size, both heads, and what it returns."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.registry import get_variant

SWIN = {"width": 16, "head_dim": 8, "window_size": 4, "depths": (1, 1)}
TINY = {"backbone_options": SWIN, "levels": ("P2", "P3"), "neck_channels": 16, "pool_grid": (1, 3)}


def test_the_contract():
    contracts.check_model("upernet_swin_tiny", **TINY)


@pytest.mark.slow
def test_any_size():
    contracts.check_sizes("upernet_swin_tiny", [(37, 50)], **TINY)


@pytest.mark.slow
def test_mixed_precision():
    contracts.check_mixed_precision("upernet_swin_tiny", **TINY)


@pytest.mark.slow
def test_over_a_resnet_without_level_norms():
    options = {"backbone": "resnet18", "backbone_options": {"width": 8}, "level_norm": False, "neck_channels": 16}
    model = tfvt.create_model("upernet_swin_tiny", num_classes=3, input_shape=(70, 65, 3), **options)
    assert contracts.arrays(model(contracts.random_images((2, 70, 65, 3))))[0].shape == (2, 70, 65, 3)
    assert "neck_p2_norm" not in [layer.name for layer in model.layers]


def test_both_heads():
    """The main logits are those without the auxiliary head, which reads the second coarsest map."""
    options = TINY | {"num_classes": 3, "input_shape": (32, 48, 3)}
    model = tfvt.create_model("upernet_swin_tiny", auxiliary=True, auxiliary_channels=8, **options)
    plain = tfvt.create_model("upernet_swin_tiny", **options)
    report = tfvt.load_checkpoint(
        plain, {w.path: contracts.arrays(w)[0] for w in model.weights if "seed" not in w.path}
    )
    assert report.fresh == ()
    assert {path.partition("/")[0] for path in report.unused} == {
        "head_auxiliary", "head_auxiliary_conv", "head_auxiliary_norm",
    }  # fmt: skip
    images = contracts.random_images((2, 32, 48, 3))
    outputs = model(images)
    assert sorted(outputs) == ["auxiliary", "logits"]
    logits, auxiliary = (contracts.arrays(outputs[kind])[0] for kind in ("logits", "auxiliary"))
    np.testing.assert_allclose(logits, contracts.arrays(plain(images))[0], atol=1e-5)
    inner = keras.Model(model.input, [model.get_layer(f"head_auxiliary{part}").output for part in ("_relu", "")])
    hidden, small = contracts.arrays(inner(images))
    kernel, bias = model.get_layer("head_auxiliary").get_weights()
    assert hidden.shape == (2, 8, 12, 8)  # of P2
    np.testing.assert_allclose(small, hidden @ kernel[0, 0] + bias, atol=1e-5)
    np.testing.assert_allclose(auxiliary, contracts.arrays(tfvt.layers.Upsample(4)(small))[0], atol=1e-5)


def test_rows():
    rows = {name: get_variant(name).row for name in tfvt.list_models("upernet_*")}
    assert list(rows) == [f"upernet_{b}" for b in ("acmix_swin_small", "acmix_swin_tiny", "swin_small", "swin_tiny")]
    assert {(row["level_norm"], row["dropout_rate"]) for row in rows.values()} == {(True, 0.1)}


@pytest.mark.parametrize(("options", "message"), [
    ({"auxiliary": True, "levels": ("P3",)}, "auxiliary=True: the auxiliary head stands beside the classifier"),
    ({"auxiliary": True, "features": ("P3",)}, "auxiliary=True: the auxiliary head stands beside the classifier"),
    ({"pool_grid": (0,)}, r"pool_grid=\(0,\): expected every value to be an integer"),
    ({"features": ("P5",)}, "features='P5': expected one of 'P2', 'P3'"),
])  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tfvt.create_model("upernet_swin_tiny", input_shape=(32, 32, 3), **TINY | options)
