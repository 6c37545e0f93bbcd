"""From a source's layout of a tensor to ours; rows of a `tfvt.checkpoints.renaming.Table` name one where it differs."""

import numpy as np


def as_is(array: np.ndarray) -> np.ndarray:
    """Keras' own layout."""
    return array


def torch_layout(array: np.ndarray) -> np.ndarray:
    """PyTorch's: convolutions (C_out, C_in, H, W) and dense kernels (C_out, C_in)."""
    if array.ndim == 4:
        return np.transpose(array, (2, 3, 1, 0))
    return array.T if array.ndim == 2 else array


def pointwise(array: np.ndarray) -> np.ndarray:
    """PyTorch's convolution of 1x1 (C_out, C_in, 1, 1), a dense layer of ours (C_in, C_out); a bias (C,) stays."""
    array = torch_layout(array)
    return array[0, 0] if array.ndim == 4 and array.shape[:2] == (1, 1) else array


def scalar(array: np.ndarray) -> np.ndarray:
    """One number, of any shape."""
    return array.reshape(())


def from_heads(array: np.ndarray) -> np.ndarray:
    """A kernel (C, heads, D), or its bias (heads, D), that writes heads: side by side, (C, heads * D)."""
    return array.reshape(*array.shape[:-2], -1)


def to_heads(array: np.ndarray) -> np.ndarray:
    """A kernel (heads, D, C) that reads heads: (heads * D, C)."""
    return array.reshape(-1, array.shape[-1])


def positions(array: np.ndarray) -> np.ndarray:
    """A table of positions (1, N, C), as (N, C)."""
    return array.reshape(-1, array.shape[-1])


def token_and_patches(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table of positions (1, 1 + N, C): the class token's (1, 1, C), and the patches' (N, C)."""
    table = positions(array)
    return table[None, :1], table[1:]


def patches_alone(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table of positions (1, N, C) without the class token's, which is folded into it: zeros, and the patches'."""
    table = positions(array)
    return np.zeros((1, 1, table.shape[-1]), "float32"), table


def box_deltas(array: np.ndarray) -> np.ndarray:
    """PyTorch's layout of a layer that gives dx, dy, dw, dh of each anchor or class, as one of dy, dx, dh, dw."""
    array = torch_layout(array)
    return array.reshape(*array.shape[:-1], -1, 4)[..., [1, 0, 3, 2]].reshape(array.shape)


def pooled_features(array: np.ndarray) -> np.ndarray:
    """PyTorch's dense kernel (C_out, C * 7 * 7) of maps (C, 7, 7), as one of (7, 7, C); a bias (C_out,) stays."""
    if array.ndim == 1:
        return array
    return array.reshape(len(array), -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, len(array))
