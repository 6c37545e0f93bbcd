"""Resampling of position embeddings against the code that each family resizes with."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from tfvt.checkpoints.positions import KERNELS, fit_positions, resample_grid

grids = st.tuples(st.integers(1, 24), st.integers(1, 24))


def noise(grid, channels=2):
    return np.random.default_rng(0).normal(size=(*grid, channels)).astype("float32")


def zoom(values, size):
    """vit_jax's and big_vision's own call, but for the mode: theirs gives 0 where rounding passes the last sample."""
    factors = (size[0] / values.shape[0], size[1] / values.shape[1], 1)
    return ndimage.zoom(values, factors, order=1, mode="nearest")


def bilinear(values, size):
    resized = keras.ops.image.resize(values[None], size, interpolation="bilinear", antialias=False)
    return keras.ops.convert_to_numpy(resized)[0]


def bicubic_antialias(values, size):
    """Pillow's bicubic: a = -0.5, always antialiased."""
    channels = [
        np.asarray(Image.fromarray(values[..., c]).resize(size[::-1], Image.Resampling.BICUBIC))
        for c in range(values.shape[-1])
    ]
    return np.stack(channels, -1)


@settings(max_examples=30, deadline=None)
@given(grid=grids, size=grids, reference=st.sampled_from([zoom, bilinear, bicubic_antialias]))
def test_equals_the_familys_own_code(grid, size, reference):
    values = noise(grid)
    expected = reference(values, size)
    np.testing.assert_allclose(resample_grid(values, size, reference.__name__), expected, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(grid=grids, size=grids, kernel=st.sampled_from(KERNELS))
def test_constants_stay_and_axes_are_alike(grid, size, kernel):
    constant = np.full((*grid, 1), 3.0, "float32")
    np.testing.assert_allclose(resample_grid(constant, size, kernel), np.full((*size, 1), 3.0), rtol=1e-5)
    turned = resample_grid(noise(grid).swapaxes(0, 1), size[::-1], kernel).swapaxes(0, 1)
    np.testing.assert_allclose(resample_grid(noise(grid), size, kernel), turned, atol=1e-5)


def test_the_kernels_differ():
    results = [resample_grid(noise((14, 14)), (24, 24), kernel) for kernel in KERNELS]
    for first in range(len(KERNELS)):
        for second in range(first):
            assert np.abs(results[first] - results[second]).max() > 0.1, (KERNELS[first], KERNELS[second])


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_equal_grid_keeps_every_bit(kernel):
    values = noise((4, 4))
    for positions in (values, values.reshape(16, 2)):
        fitted, resampled = fit_positions(positions, (4, 4), kernel)
        assert not resampled
        np.testing.assert_array_equal(fitted, values)


def test_a_flat_table_is_a_squares_or_the_grids():
    fitted, resampled = fit_positions(noise((4, 4)).reshape(16, 2), (2, 8), "zoom")  # a square image's, by its count
    assert resampled
    np.testing.assert_allclose(fitted, zoom(noise((4, 4)), (2, 8)), atol=1e-5)
    fitted, resampled = fit_positions(noise((2, 6)).reshape(12, 2), (2, 6), "zoom")
    assert not resampled
    np.testing.assert_array_equal(fitted, noise((2, 6)))
    assert fit_positions(noise((2, 6)).reshape(12, 2), (3, 5), "zoom") is None
    fitted, resampled = fit_positions(noise((2, 6)), (3, 5), "bilinear")  # our own files keep their grid
    assert (fitted.shape, resampled) == ((3, 5, 2), True)


def test_another_kernel_is_refused():
    with pytest.raises(ValueError, match="resample='cubic': expected one of 'bilinear', 'bicubic'"):
        resample_grid(noise((2, 2)), (3, 3), "cubic")
