"""Stochastic depth."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
from tfvt.layers import DropPath, drop_path_rates


def test_drops_whole_samples_and_keeps_the_mean():
    x = np.ones((4000, 2, 3), "float32")
    y = keras.ops.convert_to_numpy(DropPath(0.25, seed=1)(x, training=True))
    kept = y[:, 0, 0] > 0
    np.testing.assert_allclose(y[kept], 1 / 0.75, rtol=1e-6)
    assert (y[~kept] == 0).all()
    assert abs(kept.mean() - 0.75) < 0.02
    np.testing.assert_array_equal(DropPath(0.25)(x, training=False), x)


def test_contract():
    contracts.check_layer(lambda **kw: DropPath(0.25, **kw), np.ones((2, 3), "float32"))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_bad_rates_are_refused(rate):
    with pytest.raises(ValueError, match=r"expected a number of at least 0 and below 1"):
        DropPath(rate)


def test_rates_rise_linearly():
    """Huang et al., eq. 4: survival 1 - l / L (1 - p_L), l from 1 to L; timm: linspace(0, rate, L)."""
    huang = [1 - (1 - block / 5 * (1 - 0.8)) for block in (1, 2, 3, 4, 5)]
    assert drop_path_rates(0.2, 5, first_drops=True) == pytest.approx(huang)
    assert drop_path_rates(0.2, 1, first_drops=True) == [0.2]
    assert drop_path_rates(0.2, 5, first_drops=False) == pytest.approx(np.linspace(0, 0.2, 5))
    assert drop_path_rates(0.2, 1, first_drops=False) == [0]
