"""Patchwise attention: a small network makes the weights of a k x k neighbourhood from all its features (SAN)."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfvt.layers.convolution import strided_window
from tfvt.layers.initializers import torch_start
from tfvt.layers.local_attention import check_divisor, check_kernel_size, check_reflection, reflect
from tfvt.layers.map_attention import MapAttention
from tfvt.layers.registration import register_layer

KEY_SHARE = 4  # queries and keys have a quarter of the values' channels


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
            keras.layers.BatchNormalization(name=name, dtype=self.dtype_policy, **self.batch_norm_options)
            for name in ("features_norm", "hidden_norm")
        )
        self.hidden = self.dense(weight_dim, "hidden", torch_start(features), use_bias=False)
        self.weights_of_taps = self.dense(weight_dim * taps, "weights", torch_start(weight_dim))
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
        batch, height, width, _ = ops.shape(query)
        size, weight_dim = self.kernel_size, self.filters // self.share
        taps = [divmod(p, size) for p in range(size**2)]
        key = reflect(key, size)
        # The norm's channels are in the published order: a channel's taps side by side.
        keys = ops.stack([strided_window(key, *tap, size, 1) for tap in taps], axis=-1)  # (B, H, W, C / 4, k^2)
        keys = ops.reshape(keys, (batch, height, width, query.shape[-1] * size**2))  # (B, H, W, C / 4 * k^2)
        x = ops.relu(self.features_norm(ops.concatenate([query, keys], axis=-1), training=training))
        x = self.weights_of_taps(ops.relu(self.hidden_norm(self.hidden(x), training=training)))  # (B, H, W, w * k^2)
        weights = ops.reshape(x, (batch, height, width, 1, weight_dim, size**2))
        value = reflect(value, size)  # (B, H + k - 1, W + k - 1, C)
        value = ops.reshape(value, (batch, height + size - 1, width + size - 1, self.share, weight_dim))
        # Tap by tap, each (B, H, W, share, w): all neighbourhoods at once would be k x k times the values.
        outputs = sum(weights[..., p] * strided_window(value, *tap, size, 1) for p, tap in enumerate(taps))
        return ops.reshape(outputs, (batch, height, width, self.filters))

    def compute_output_shape(self, x_shape):
        outputs = (*x_shape[:-1], self.filters)
        queries = (*x_shape[:-1], self.filters // KEY_SHARE)
        projected = (queries, queries, outputs)
        return {"attention": outputs, "both": (outputs, *projected), "projections": projected}[self.returns]

    def macs(self, x):
        """Weights times values; the network that makes the weights counts as its linear layers."""
        return 0 if self.returns == "projections" else x.shape[1] * x.shape[2] * self.filters * self.kernel_size**2
