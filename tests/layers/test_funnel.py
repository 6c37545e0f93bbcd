"""Pooling and repeating of patch tokens against loops over windows, for any grid and any window."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.contracts as contracts
from tfvt.layers import FunnelPooling, FunnelUpsampling

sides = st.integers(1, 9)
windows = st.tuples(st.integers(1, 4), st.integers(1, 4))


def cells(grid, window):
    """Rows and columns of each window, in the order of the pooled tokens."""
    for top in range(0, grid[0], window[0]):
        for left in range(0, grid[1], window[1]):
            yield slice(top, top + window[0]), slice(left, left + window[1])


def tokens(grid, seed=0):
    return np.random.default_rng(seed).normal(size=(2, 1 + grid[0] * grid[1], 3)).astype("float32")


@settings(max_examples=25, deadline=None)
@given(grid=st.tuples(sides, sides), window=windows, pooling=st.sampled_from(["mean", "max"]))
def test_pooling(grid, window, pooling):
    x = tokens(grid)
    (actual,) = contracts.arrays(FunnelPooling(grid, window, pooling)(x))
    np.testing.assert_array_equal(actual[:, 0], x[:, 0])
    patches = x[:, 1:].reshape(2, *grid, 3)
    reduce = np.mean if pooling == "mean" else np.max
    expected = [reduce(patches[:, rows, columns], axis=(1, 2)) for rows, columns in cells(grid, window)]
    np.testing.assert_allclose(actual[:, 1:], np.stack(expected, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("length", "stride", "pooled"), [(196, 2, 98), (98, 2, 49), (49, 2, 25), (196, 4, 49), (7, 4, 2)]
)
def test_lengths_of_the_paper_and_odd_ones(length, stride, pooled):
    assert FunnelPooling((1, length), (1, stride))(tokens((1, length))).shape == (2, 1 + pooled, 3)


@settings(max_examples=25, deadline=None)
@given(grid=st.tuples(sides, sides), window=windows)
def test_upsampling_repeats_each_token_over_its_window(grid, window):
    pooled = (-(-grid[0] // window[0]), -(-grid[1] // window[1]))
    x = tokens(pooled)
    (actual,) = contracts.arrays(FunnelUpsampling(grid, window)(x))
    np.testing.assert_array_equal(actual[:, 0], x[:, 0])
    expected = np.zeros((2, *grid, 3), "float32")
    for index, (rows, columns) in enumerate(cells(grid, window)):
        expected[:, rows, columns] = x[:, None, None, 1 + index]
    np.testing.assert_array_equal(actual[:, 1:].reshape(2, *grid, 3), expected)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_contract(pooling):
    x = tokens((3, 5))
    contracts.check_layer(lambda **kw: FunnelPooling((3, 5), (2, 2), pooling, **kw), x)
    contracts.check_layer(lambda **kw: FunnelUpsampling((5, 9), (2, 2), **kw), x)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="pooling='min': expected one of 'mean', 'max'"):
        FunnelPooling((2, 2), (1, 2), "min")
    with pytest.raises(ValueError, match=r"6 tokens, expected a class token and a grid of \(2, 2\)"):
        FunnelPooling((2, 2), (1, 2), name="p")(np.zeros((1, 6, 3), "float32"))
    with pytest.raises(ValueError, match=r"up: 6 tokens, expected a class token and a grid of \(1, 2\)"):
        FunnelUpsampling((2, 4), (2, 2), name="up")(keras.ops.zeros((1, 6, 3)))
