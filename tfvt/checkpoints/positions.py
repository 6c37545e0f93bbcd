"""Position embeddings for another grid of patches.

Each family resizes with its own kernel, and from 14x14 to 24x24 these differ by up to 1.8 on unit noise. So tfvt
resizes a checkpoint with the kernel of its own family.

    bilinear           TensorFlow official models: half-pixel centres, no antialiasing (`tf.image.resize`)
    bicubic            transformers: a = -0.75, no antialiasing (`torch.nn.functional.interpolate`)
    bicubic_antialias  timm: a = -0.5, the kernel widened by the scale when shrinking (the same, antialias=True)
    zoom               vit_jax, big_vision: linear between corners that stay (`scipy.ndimage.zoom`, order 1)
"""

import math

import numpy as np

from tfvt.checks import check_choice

KERNELS = ("bilinear", "bicubic", "bicubic_antialias", "zoom")


def fit_positions(positions: np.ndarray, grid: tuple[int, int], kernel: str) -> tuple[np.ndarray, bool] | None:
    """Position embeddings of patches on another grid.

    Args:
        positions: (H, W, C), or (N, C) as most sources keep them: then of a square image if N is a square number,
            and of `grid` if they are as many as it has.
        grid: (rows, columns) to reach.
        kernel: one of `KERNELS`.

    Returns:
        ((rows, columns, C), whether they were resampled); on an equal grid the same bits. None if the grid of
        `positions` is unknown.
    """
    if positions.ndim == 2:
        num_patches, side = len(positions), math.isqrt(len(positions))
        if side * side == num_patches:
            positions = positions.reshape(side, side, -1)
        elif num_patches == grid[0] * grid[1]:
            positions = positions.reshape(*grid, -1)
        else:
            return None
    if positions.shape[:2] == tuple(grid):
        return positions, False
    return resample_grid(positions, grid, kernel), True


def resample_grid(values: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    """Resize a map (H, W, C) to `size` (rows, columns) with one of `KERNELS`; float32."""
    check_choice("resample", kernel, KERNELS)
    rows, columns = (_weights(n, m, kernel) for n, m in zip(values.shape[:2], size, strict=True))
    return np.einsum("ph,qw,hwc->pqc", rows, columns, values.astype("float64"), optimize=True).astype("float32")


def _weights(num_inputs, num_outputs, kernel):
    """(num_outputs, num_inputs): how much each output takes of each input along one axis."""
    if kernel == "zoom":
        centres = np.linspace(0, num_inputs - 1, num_outputs)
    else:
        centres = (np.arange(num_outputs) + 0.5) * num_inputs / num_outputs - 0.5
    antialias = kernel == "bicubic_antialias"
    width = max(1.0, num_inputs / num_outputs) if antialias else 1.0
    outside = 2  # inputs that a cubic kernel reaches beyond the edges
    inputs = np.arange(-outside, num_inputs + outside)
    distances = np.abs(centres[:, None] - inputs) / width
    weights = _cubic(distances, -0.5 if antialias else -0.75) if "bicubic" in kernel else np.maximum(0, 1 - distances)
    if antialias:  # what lies outside counts for nothing
        weights = weights[:, outside:-outside]
        return weights / weights.sum(axis=1, keepdims=True)
    repeated = np.zeros((num_inputs, num_outputs))  # what lies outside is the edge again
    np.add.at(repeated, np.clip(inputs, 0, num_inputs - 1), weights.T)
    return repeated.T


def _cubic(x, a):
    """Keys' cubic convolution kernel of distances x >= 0."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
