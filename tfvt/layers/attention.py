"""Attention, written once."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfvt.layers.dense import TokenDense
from tfvt.layers.initializers import matrix_start
from tfvt.layers.registration import register_layer


def softmax(logits: Any) -> Any:
    """Soft-max over the last axis; of a single logit, as on a map of one pixel, it is 1."""
    if logits.shape[-1] == 1:  # `ops.softmax` warns of it
        return ops.exp(ops.log_softmax(logits, axis=-1))
    return ops.softmax(logits, axis=-1)


def multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    num_heads: int = 1,
    scale: bool = True,
    dropout: Callable[[Any], Any] | None = None,
) -> Any:
    """Soft-max over the keys of query key^T, times value.

    Args:
        query: (B, Q, D) with D a multiple of num_heads; Q may be unknown.
        key: (B, K, D).
        value: (B, K, C) with C a multiple of num_heads.
        num_heads: heads that share the channels in equal consecutive parts.
        scale: divide the logits by the square root of the key width per head (Vaswani et al. 2017).
        dropout: called on the attention weights (B, num_heads, Q, K).

    Returns:
        (B, Q, C).
    """
    scale = (query.shape[-1] // num_heads) ** -0.5 if scale else 1.0
    if dropout is None and _has_fused_kernel() and query.shape[-1] == value.shape[-1]:
        heads = [ops.reshape(x, (*ops.shape(x)[:2], num_heads, -1)) for x in (query, key, value)]
        return _join_heads(ops.dot_product_attention(*heads, scale=scale))
    return _attend(*(_split_heads(x, num_heads) for x in (query, key, value)), scale, dropout)


def attention_weights(query: Any, key: Any, num_heads: int = 1, scale: bool = True) -> Any:
    """The weights (B, num_heads, Q, K) by which `multi_head_attention` adds up the values; they sum to 1 over K."""
    scale = (query.shape[-1] // num_heads) ** -0.5 if scale else 1.0
    return _weights(_split_heads(query, num_heads), _split_heads(key, num_heads), scale)


def _weights(query, key, scale):
    """(B, num_heads, Q, K), from the heads of query and key, (B, num_heads, L, D) each."""
    return softmax(ops.matmul(query * scale, ops.swapaxes(key, -1, -2)))


def _attend(query, key, value, scale, dropout):
    """(B, num_heads, L, D) each -> (B, L, num_heads * D), by two batched matmuls."""
    weights = _weights(query, key, scale)
    if dropout is not None:
        weights = dropout(weights)
    return _join_heads(ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3)))  # of (B, Q, num_heads, D)


def _has_fused_kernel():
    """Whether `ops.dot_product_attention` is the faster form.

    JAX and PyTorch run it with fused kernels on accelerators. TensorFlow has none: its einsums took 1.3 times as
    long as two batched matmuls, with gradients 1.5 times (`python -m benchmarks.vit attention`, two CPU cores).
    """
    return keras.backend.backend() != "tensorflow"


def attention_macs(num_queries: int, num_keys: int, key_width: int, value_width: int) -> int:
    """Multiply-adds of query key^T and of weights times value, all heads, for one image."""
    return num_queries * num_keys * (key_width + value_width)


@register_layer
class MultiHeadAttention(keras.layers.Layer):
    """Multi-head attention with one matrix for queries, keys and values (Vaswani et al. 2017, section 3.2).

    Without a context the tokens attend to themselves. With one, the tokens are the queries and the context gives
    keys and values, by the same matrix.

    Args:
        num_heads: a divisor of the width C; the heads share the channels in equal consecutive parts.
        dropout_rate: of the attention weights.
        kernel_stddev: standard deviation of the normal distribution that the matrices start from; None: Glorot's.

    Shapes: (B, L, C), optionally with a context (B, K, C) -> (B, L, C).

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(
        self,
        num_heads: int,
        dropout_rate: float = 0.0,
        kernel_stddev: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.dropout_rate, self.kernel_stddev = num_heads, dropout_rate, kernel_stddev
        self.dropout = keras.layers.Dropout(dropout_rate, name="dropout", dtype=self.dtype_policy)

    def build(self, x_shape, context_shape=None):
        channels = x_shape[-1]
        if channels % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: expected a divisor of the {channels} channels")
        # One matrix, held here and not by a dense layer, because a context needs it in parts. Each third starts as
        # a Glorot matrix (C, C) of its own would: the fans of (C, 3 C) are twice as large.
        start = matrix_start(self.kernel_stddev)
        if self.kernel_stddev is None:
            start = keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")
        self.qkv_kernel = self.add_weight(name="qkv_kernel", shape=(channels, 3 * channels), initializer=start)
        self.qkv_bias = self.add_weight(name="qkv_bias", shape=(3 * channels,), initializer="zeros")
        self.out = TokenDense(
            channels, kernel_initializer=matrix_start(self.kernel_stddev), name="out", dtype=self.dtype_policy
        )
        self.out.build(x_shape)

    def call(self, x, context=None, training=None):
        dropout = None
        if training and self.dropout_rate:
            dropout = lambda weights: self.dropout(weights, training=training)  # noqa: E731
        if context is None and not _has_fused_kernel():
            # All three take their heads' form in one go: ViT-B infers 1.01 times as fast as with one after the other.
            key_dim = x.shape[-1] // self.num_heads
            heads = ops.reshape(self._project(x, 0, 3), (*ops.shape(x)[:2], 3, self.num_heads, key_dim))
            query, key, value = ops.unstack(ops.transpose(heads, (2, 0, 3, 1, 4)))  # (B, num_heads, L, key_dim) each
            return self.out(_attend(query, key, value, key_dim**-0.5, dropout))
        if context is None:
            query, key, value = ops.split(self._project(x, 0, 3), 3, axis=-1)  # (B, L, C) each
        else:
            query = self._project(x, 0, 1)  # (B, L, C)
            key, value = ops.split(self._project(context, 1, 3), 2, axis=-1)  # (B, K, C) each
        return self.out(multi_head_attention(query, key, value, self.num_heads, dropout=dropout))

    def attention_weights(self, x: Any, context: Any = None) -> Any:
        """Of each token of `x` to each of the context, or of `x` itself: (B, num_heads, L, K), sums 1 over K."""
        query, key = self._project(x, 0, 1), self._project(x if context is None else context, 1, 2)
        return attention_weights(query, key, self.num_heads)

    def _project(self, x, first, last):
        """`x` times the thirds `first` to `last` of the matrix (0: queries, 1: keys, 2: values)."""
        part = slice(first * x.shape[-1], last * x.shape[-1])
        matrix = ops.reshape(x, (-1, x.shape[-1]))  # (B * L, C), as `TokenDense` does
        projected = ops.matmul(matrix, self.qkv_kernel[:, part]) + self.qkv_bias[part]  # (B * L, thirds * C)
        return ops.reshape(projected, (*ops.shape(x)[:2], (last - first) * x.shape[-1]))

    def compute_output_shape(self, x_shape, context_shape=None):
        return x_shape

    def macs(self, x, context=None):
        (num_queries, channels), num_keys = x.shape[1:], (x if context is None else context).shape[1]
        projections = channels**2 * (num_queries + 2 * num_keys)
        return projections + attention_macs(num_queries, num_keys, channels, channels)


def _split_heads(x, num_heads):
    """(B, L, C) -> (B, num_heads, L, C / num_heads)."""
    if num_heads == 1:
        return ops.expand_dims(x, 1)
    x = ops.reshape(x, (*ops.shape(x)[:2], num_heads, x.shape[-1] // num_heads))  # (B, L, num_heads, C / num_heads)
    return ops.transpose(x, (0, 2, 1, 3))


def _join_heads(x):
    """(B, L, num_heads, C / num_heads) -> (B, L, C)."""
    return ops.reshape(x, (*ops.shape(x)[:2], x.shape[2] * x.shape[3]))
