"""Rates of ACmix over depth: the values, the table and the picture."""

import keras
import numpy as np
import pytest
from PIL import Image

import tfvt
from tfvt.analysis import PathRates, draw_path_rates, path_rates
from tfvt.layers import ACmix

SWIN = {"depths": (1, 2), "width": 16, "head_dim": 8, "window_size": 4, "input_shape": (32, 32, 3)}
OTHERS = {
    "acmix_resnet26": {"depths": (1, 2), "width": 8, "input_shape": (64, 64, 3)},
    "acmix_san10": {"depths": (1, 2), "width": 32, "kernel_size": 3, "input_shape": (32, 32, 3)},
    "acmix_pvt_tiny": {"depths": (1, 1, 1, 1), "head_dim": 8, "input_shape": (64, 64, 3)},
}


def set_rates(model, name, values):
    """Give the `name` of the model's ACmix layers these values, by the layers' order from image to head."""
    weights = [weight for weight in model.weights if weight.path.endswith(f"/mixer/{name}")]
    for weight, value in zip(weights, values, strict=True):
        weight.assign(value)


def test_rates_in_the_order_of_depth():
    model = tfvt.create_model("acmix_swin_tiny", **SWIN)
    set_rates(model, "alpha", (0.5, -1.0, 3.0))
    set_rates(model, "beta", (0.25, 2.0, 0.0))
    rates = path_rates(model)
    assert rates.model == "acmix_swin_tiny"
    assert rates.layers == ("stage1_block1/mixer", "stage2_block1/mixer", "stage2_block2/mixer")
    np.testing.assert_allclose(rates.alpha, (0.5, -1.0, 3.0))
    np.testing.assert_allclose(rates.beta, (0.25, 2.0, 0.0))
    np.testing.assert_allclose(rates.log_ratio, (np.log(2), -np.log(2), np.inf))
    assert [line.split() for line in str(rates).splitlines()] == [
        ["layer", "alpha", "beta", "log|alpha/beta|"],
        ["stage1_block1/mixer", "0.5000", "0.2500", "0.6931"],
        ["stage2_block1/mixer", "-1.0000", "2.0000", "-0.6931"],
        ["stage2_block2/mixer", "3.0000", "0.0000", "inf"],
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_every_family_has_a_rate_for_each_layer(name):
    model = tfvt.create_model(name, **OTHERS[name])
    rates = path_rates(model)
    np.testing.assert_allclose(rates.alpha, 0.5)
    np.testing.assert_allclose(rates.beta, 0.5)
    count = sum(isinstance(layer, ACmix) for layer in model._flatten_layers())
    assert len(rates.layers) == len(set(rates.layers)) == count > 2
    assert list(rates.layers) == sorted(rates.layers)


@pytest.mark.parametrize(("combine", "beta"), [("alpha", 1.0), ("complement", 0.7)])
def test_a_rate_that_follows_from_the_other(combine, beta):
    model = tfvt.create_model("acmix_swin_tiny", combine=combine, **SWIN)
    set_rates(model, "alpha", (0.3,) * 3)
    np.testing.assert_allclose(path_rates(model).beta, beta, rtol=1e-6)


@pytest.mark.parametrize("combine", ["sum", "attention", "convolution"])
def test_rates_that_are_not_learned_are_refused(combine):
    model = tfvt.create_model("acmix_swin_tiny", combine=combine, **SWIN)
    with pytest.raises(ValueError, match=f"acmix_swin_tiny has no learned rates: .* combine='{combine}'"):
        path_rates(model)


def test_a_model_without_acmix_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="plain")
    with pytest.raises(ValueError, match="plain has no ACmix layer"):
        path_rates(model)


def test_the_picture_has_a_row_for_each_model(tmp_path):
    def rates(model, alpha):
        return PathRates(model, ("a", "b", "c"), np.array(alpha), np.array([0.5, 0.5, 0.0]))

    shown = {"one": rates("x", [0.1, 0.5, 0.9]), "two": rates("x", [0.2, 0.2, 0.2])}
    draw_path_rates(shown, tmp_path / "one.png")
    draw_path_rates(shown | {"three": rates("y", [0.2, 0.3, 0.4])}, tmp_path / "two.png")
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int) for name in ("one", "two"))
    assert two.shape[0] > 1.8 * one.shape[0]
    blue = (one[..., 2] > 150) & (one[..., 0] < 80)  # the first line: it rises from left to right in the first plot
    rows, columns = np.nonzero(blue[:, : one.shape[1] // 3])
    line = columns > one.shape[1] * 0.15
    assert np.corrcoef(rows[line], columns[line])[0, 1] < -0.9
