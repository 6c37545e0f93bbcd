"""A whole SAN beside the same network in PyTorch's functions, on one state dict under the authors' names."""

import numpy as np
import pytest

import tfvt
from tests.checkpoints.test_san_pvt_checkpoints import SAN, authors_san

pytestmark = pytest.mark.parity


def san_by_torch(state, x, depths, kernel_sizes):
    """Logits. SAN (Zhao, Jia and Koltun 2020), section 4: pre-activation blocks with patchwise attention."""
    import torch
    from torch.nn import functional as F

    state = {name: torch.tensor(array) for name, array in state.items()}

    def conv(x, name):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm_relu(x, name):
        statistics = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *statistics))

    def windows(x, size):
        """(B, C, k * k, H, W), reflected at the borders."""
        padded = F.pad(x, [size // 2] * 4, mode="reflect")
        return F.unfold(padded, size).reshape(*x.shape[:2], size**2, *x.shape[2:])

    def attention(x, name, size):
        query, key, value = (conv(x, f"{name}.conv{i}") for i in (1, 2, 3))
        keys = windows(key, size).flatten(1, 2)
        weights = norm_relu(torch.cat([query, keys], dim=1), f"{name}.conv_w.0")
        weights = conv(norm_relu(conv(weights, f"{name}.conv_w.2"), f"{name}.conv_w.3"), f"{name}.conv_w.5")
        shared = value.shape[1] // 8
        weights = weights.unflatten(1, (shared, size**2)).repeat(1, 8, 1, 1, 1)
        return (weights * windows(value, size)).sum(dim=2)

    x = norm_relu(conv(torch.tensor(x.transpose(0, 3, 1, 2)), "conv_in"), "bn_in")
    for stage, (depth, size) in enumerate(zip(depths, kernel_sizes, strict=True)):
        x = conv(F.max_pool2d(x, 2), f"conv{stage}")
        for block in range(depth):
            name = f"layer{stage}.{block}"
            y = attention(norm_relu(x, f"{name}.bn1"), f"{name}.sam", size)
            x = x + conv(norm_relu(y, f"{name}.bn2"), f"{name}.conv")
        x = norm_relu(x, f"bn{stage}")
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"]).numpy()


def test_logits_equal_pytorch():
    state = authors_san()
    ours = tfvt.create_model("san10", pixel_mean=None, weights=state, **SAN)
    pixels = np.random.default_rng(0).normal(size=(2, *SAN["input_shape"])).astype("float32")
    expected = san_by_torch(state, pixels, SAN["depths"], (3, SAN["kernel_size"]))
    assert np.ptp(expected, axis=0).min() > 1e-3
    np.testing.assert_allclose(ours.predict(pixels, verbose=0), expected, rtol=1e-4, atol=1e-4)
