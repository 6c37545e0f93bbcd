"""Patchwise attention: a small network makes the weights of a k x k neighbourhood from all its features (SAN)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfvt.layers.convolution import shifted_windows
from tfvt.layers.initializers import torch_start
from tfvt.layers.local_attention import check_divisor, check_kernel_size, check_reflection, reflect
from tfvt.layers.map_attention import MapAttention
from tfvt.layers.normalization import BatchNormalization
from tfvt.layers.registration import register_layer

KEY_SHARE = 4  # queries and keys have a quarter of the values' channels


class _OrderedDense(keras.layers.Dense):
    """A dense layer for channels in another order than its weights have.

    Reordered weights are small; channels of a map reordered take longer than the layer.
    """

    def call(self, x, inputs=None, outputs=None):
        """`inputs`, `outputs`: the place of each channel among the weights."""
        kernel, bias = self.kernel, self.bias
        # Along another axis than the first, TensorFlow's gradient is a tensor, and not sparse.
        if inputs is not None:
            kernel = ops.take(kernel[None], inputs, axis=1)[0]
        if outputs is not None:
            kernel, bias = ops.take(kernel, outputs, axis=1), ops.take(bias[None], outputs, axis=1)
        x = ops.matmul(x, kernel)
        return x if bias is None else x + bias


@register_layer
class SANAttention(MapAttention):
    """Self-attention of SAN, its patchwise form (Zhao, Jia and Koltun 2020); eq. (18) of ACmix.

    The query of a pixel and the keys of its neighbourhood, side by side, pass batch norm, ReLU, a linear layer
    without bias, batch norm, ReLU and a linear layer: k x k weights for each of w = filters / share channels, without
    a soft-max. Channel c of the values is summed with the weights of channel c % w. Keys and values are reflected at
    the borders.

    Args:
        filters: channels of the values and of the output; queries and keys have a quarter of them.
        share: value channels that share one set of weights, a divisor of `filters`.
        kernel_size: k, odd.
        batch_norm_options: arguments of both batch norms, such as {"epsilon": 1e-5}.
        returns: see `MapAttention`.

    Shapes: (B, H, W, C) -> (B, H, W, filters).

    Raises:
        ValueError: channels that cannot be shared, or a map that is too small to reflect.
    """

    def __init__(
        self,
        filters: int,
        share: int = 8,
        kernel_size: int = 7,
        batch_norm_options: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divisor("share", share, filters)
        if filters % KEY_SHARE:
            raise ValueError(f"filters={filters}: expected a multiple of {KEY_SHARE}")
        check_kernel_size("kernel_size", kernel_size)
        self.filters, self.share, self.kernel_size = filters, share, kernel_size
        self.batch_norm_options = {"epsilon": 1e-5, "momentum": 0.9} | (batch_norm_options or {})

    def build_projections(self, x_shape: Sequence[int | None]) -> None:
        self.query, self.key, self.value = (
            self.dense(units, name, torch_start(x_shape[-1]))
            for name, units in (
                ("query", self.filters // KEY_SHARE),
                ("key", self.filters // KEY_SHARE),
                ("value", self.filters),
            )
        )
        for layer in (self.query, self.key, self.value):
            layer.build(x_shape)

    def build_attention(self, x_shape: Sequence[int | None]) -> None:
        check_reflection(x_shape, self.kernel_size)
        taps, weight_dim = self.kernel_size**2, self.filters // self.share
        features = self.filters // KEY_SHARE * (taps + 1)
        self.features_norm, self.hidden_norm = (
            BatchNormalization(name=name, dtype=self.dtype_policy, **self.batch_norm_options)
            for name in ("features_norm", "hidden_norm")
        )
        self.hidden = _OrderedDense(
            weight_dim, use_bias=False, name="hidden", dtype=self.dtype_policy, **torch_start(features)
        )
        self.weights_of_taps = _OrderedDense(
            weight_dim * taps, name="weights", dtype=self.dtype_policy, **torch_start(weight_dim)
        )
        self.features_norm.build((*x_shape[:-1], features))
        self.hidden.build((*x_shape[:-1], features))
        self.hidden_norm.build((*x_shape[:-1], weight_dim))
        self.weights_of_taps.build((*x_shape[:-1], weight_dim))

    def call(self, x, training=None):
        projections = self.query(x), self.key(x), self.value(x)
        if self.returns == "projections":
            return projections
        outputs = self.aggregate(*projections, training=training)
        return (outputs, *projections) if self.returns == "both" else outputs

    def aggregate(self, query: Any, key: Any, value: Any, training: bool | None = None) -> Any:
        _, height, width, _ = ops.shape(query)
        size, weight_dim = self.kernel_size, self.filters // self.share
        keys = shifted_windows(reflect(key, size), size)
        x = ops.relu(self.hidden_norm(self._hidden_features(query, keys, training), training=training))
        # In the published order, the weights of a channel's taps lie side by side: here, those of a tap's channels.
        x = self.weights_of_taps(x, outputs=np.arange(weight_dim * size**2).reshape(weight_dim, -1).T.ravel())
        weights = ops.split(ops.reshape(x, (-1, height, width, 1, weight_dim * size**2)), size**2, axis=-1)
        shape = (-1, height, width, self.share, weight_dim)
        # Tap by tap: all neighbourhoods at once would be k x k times the values.
        windows = shifted_windows(reflect(value, size), size)
        outputs = sum(w * ops.reshape(window, shape) for w, window in zip(weights, windows, strict=True))
        return ops.reshape(outputs, (-1, height, width, self.filters))

    def _hidden_features(self, query, keys, training):
        """The linear layer after norm and ReLU of queries and keys: (B, H, W, w)."""
        batch, height, width, channels = ops.shape(query)
        if self.features_norm.is_fused(query, training):
            order = channels + np.arange(channels * len(keys)).reshape(channels, -1).T.ravel()
            order = np.concatenate([np.arange(channels), order])
            x = self.features_norm(ops.concatenate([query, *keys], axis=-1), training=training, order=order)
            return self.hidden(ops.relu(x), inputs=order)
        # The norm's channels are in the published order: a channel's taps side by side.
        keys = ops.reshape(ops.stack(keys, axis=-1), (batch, height, width, channels * len(keys)))
        x = self.features_norm(ops.concatenate([query, keys], axis=-1), training=training)
        return self.hidden(ops.relu(x))

    def compute_output_shape(self, x_shape):
        outputs = (*x_shape[:-1], self.filters)
        queries = (*x_shape[:-1], self.filters // KEY_SHARE)
        projected = (queries, queries, outputs)
        return {"attention": outputs, "both": (outputs, *projected), "projections": projected}[self.returns]

    def macs(self, x):
        """Weights times values; the network that makes the weights counts as its linear layers."""
        return 0 if self.returns == "projections" else x.shape[1] * x.shape[2] * self.filters * self.kernel_size**2
