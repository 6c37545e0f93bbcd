"""Global attention with keys and values from a reduced map (Pyramid Vision Transformer)."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfvt.layers.attention import attention_macs, multi_head_attention
from tfvt.layers.initializers import normal_start, torch_start
from tfvt.layers.local_attention import check_divisor
from tfvt.layers.map_attention import MapAttention
from tfvt.layers.patches import pad_to_multiple, padded_shape
from tfvt.layers.registration import register_layer
from tfvt.layers.visual_tokens import pixel_list


@register_layer
class GlobalAttention(MapAttention):
    """Multi-head attention of every pixel to the whole map, reduced by a strided convolution.

    Source: PVT (Wang et al. 2021), section 3.3, "spatial-reduction attention"; eq. (20) of ACmix.

    Args:
        filters: C, the input's channels as well.
        num_heads: a divisor of `filters`.
        reduction: R; keys and values come from R x R pixels each, through a linear layer and a layer norm. The map is
            padded with zeros at the bottom and right to a multiple of it.
        layer_norm_epsilon: of that norm.
        returns: see `MapAttention`; with a token, the output is the tuple (map, token).

    Shapes: map (B, H, W, C), and optionally a class token (B, 1, C), which attends and is attended to as one more
    pixel -> map (B, H, W, C), or (map, token).
    """

    def __init__(
        self,
        filters: int,
        num_heads: int,
        reduction: int = 1,
        layer_norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divisor("num_heads", num_heads, filters)
        self.filters, self.num_heads, self.reduction = filters, num_heads, reduction
        self.layer_norm_epsilon = layer_norm_epsilon
        self.query = self.dense(filters, "query", normal_start())
        self.key_value = self.dense(2 * filters, "key_value", normal_start())
        if reduction > 1:
            self.reduce = keras.layers.Conv2D(
                filters,
                reduction,
                strides=reduction,
                name="reduce",
                dtype=self.dtype_policy,
                **torch_start(reduction**2 * filters),
            )
            self.reduce_norm = keras.layers.LayerNormalization(
                epsilon=layer_norm_epsilon, name="reduce_norm", dtype=self.dtype_policy
            )

    def build(self, x_shape, token_shape=None):
        super().build(x_shape)

    def build_projections(self, x_shape: Sequence[int | None]) -> None:
        self.query.build(x_shape)
        self.key_value.build(x_shape)
        if self.reduction > 1:
            self.reduce.build(padded_shape(x_shape, self.reduction))
            self.reduce_norm.build(x_shape)

    def build_attention(self, x_shape: Sequence[int | None]) -> None:
        self.out = self.dense(self.filters, "out", normal_start())
        self.out.build(x_shape)

    def call(self, x, token=None):
        reduced = x
        if self.reduction > 1:
            reduced = self.reduce_norm(self.reduce(pad_to_multiple(x, self.reduction)))  # (B, rows, columns, C)
        projections = (self.query(x), *ops.split(self.key_value(reduced), 2, axis=-1))
        if self.returns == "projections":
            return projections
        outputs = self.attend(*projections, token)
        return (outputs, *projections) if self.returns == "both" else outputs

    def attend(self, query: Any, key: Any, value: Any, token: Any = None) -> Any:
        shape = ops.shape(query)
        query, key, value = (pixel_list(x) for x in (query, key, value))  # (B, P, C)
        if token is not None:
            of_token = (self.query(token), *ops.split(self.key_value(token), 2, axis=-1))  # (B, 1, C) each
            query, key, value = (
                ops.concatenate(pair, axis=1) for pair in zip(of_token, (query, key, value), strict=True)
            )  # (B, 1 + P, C)
        outputs = self.out(multi_head_attention(query, key, value, self.num_heads))  # (B, HW, C), or (B, 1 + HW, C)
        if token is None:
            return ops.reshape(outputs, shape)
        return ops.reshape(outputs[:, 1:], shape), outputs[:, :1]

    def compute_output_shape(self, x_shape, token_shape=None):
        outputs = x_shape if token_shape is None else (x_shape, token_shape)
        rows, columns = (None if size is None else -(-size // self.reduction) for size in x_shape[1:3])
        reduced = (x_shape[0], rows, columns, self.filters)
        projected = (x_shape, reduced, reduced)
        return {"attention": outputs, "both": (outputs, *projected), "projections": projected}[self.returns]

    def macs(self, x, token=None):
        if self.returns == "projections":
            return 0
        rows, columns = (-(-size // self.reduction) for size in x.shape[1:3])
        queries, keys = (pixels + (token is not None) for pixels in (x.shape[1] * x.shape[2], rows * columns))
        return attention_macs(queries, keys, self.filters, self.filters)
