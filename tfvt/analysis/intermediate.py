"""What is inside a functional model: values of its tensors, and cells of maps as areas of the image."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np


def layers_of(model: keras.Model, kind: type | tuple[type, ...]) -> list[keras.layers.Layer]:
    """The layers of a functional model that are of a kind, in the order in which the model calls them.

    Raises:
        ValueError: the model is not functional, so that it has no tensors to look at.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(f"{model.name} is no functional model: expected one of tfvt.create_model")
    return [layer for layer in model.layers if isinstance(layer, kind)]


def values(
    model: keras.Model, tensors: Sequence[keras.KerasTensor], images: np.ndarray, batch_size: int
) -> Iterator[list[np.ndarray]]:
    """Values of `tensors` in inference, one list of float32 arrays (B, ...) for each batch of `images`.

    Raises:
        ValueError: the model takes images of another size.
    """
    expected = tuple(model.inputs[0].shape[1:])
    if len(images.shape) != 4 or any(e not in (None, s) for e, s in zip(expected, images.shape[1:], strict=True)):
        raise ValueError(f"{model.name} takes images (B, {', '.join(map(str, expected))}), not {images.shape}")
    inside = keras.Model(model.inputs[0], list(tensors))
    for start in range(0, len(images), batch_size):
        yield [array(value) for value in inside(images[start : start + batch_size], training=False)]


def array(tensor: object) -> np.ndarray:
    """A tensor of any backend as float32."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def stride_of(pixels: int, cells: int) -> float:
    """Pixels along a side that one of its cells covers: a power of 2, rounded up at the end, where one fits.

    119 cells of 473 pixels have 4 pixels each; the last has one.
    """
    stride = 1
    while -(-pixels // stride) > cells:
        stride *= 2
    return stride if -(-pixels // stride) == cells else pixels / cells


def cell_index(pixels: int, cells: int) -> np.ndarray:
    """The cell that each of `pixels` is in, (pixels,)."""
    return np.minimum(np.arange(pixels) // stride_of(pixels, cells), cells - 1).astype(int)


def spread(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (B, h, w, ...) at a finer size (B, *size, ...): what a cell has is divided equally among its pixels."""
    for axis, pixels in ((1, size[0]), (2, size[1])):
        index = cell_index(pixels, maps.shape[axis])
        counts = np.bincount(index, minlength=maps.shape[axis])[index]
        maps = np.take(maps, index, axis=axis) / counts.reshape([-1 if a == axis else 1 for a in range(maps.ndim)])
    return maps


def cell_shares(areas: np.ndarray, grid: tuple[int, int], size: tuple[int, int] | None = None) -> np.ndarray:
    """Share of each cell of a map that an area covers.

    Args:
        areas: (B, H, W), share of the area in each pixel, 0..1, at any size.
        grid: (h, w) of the map.
        size: (height, width) of the image that the model saw, from which the strides follow; default H and W.

    Returns:
        (B, h, w), 0..1. Of a cell that juts out of the image, the part inside counts.
    """
    shares = np.asarray(areas, dtype="float64")
    for axis, cells in ((1, grid[0]), (2, grid[1])):
        pixels = shares.shape[axis]
        seen = pixels if size is None else size[axis - 1]
        edges = np.minimum(np.arange(cells + 1) * stride_of(seen, cells) / seen, 1) * pixels
        places = np.arange(pixels)
        overlap = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
        overlap = np.maximum(overlap, 0)
        shares = np.moveaxis(np.tensordot(overlap / overlap.sum(axis=1, keepdims=True), shares, (1, axis)), 0, axis)
    return shares
