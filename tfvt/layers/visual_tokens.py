"""Visual tokens: their relations and the projector (Visual Transformers, Wu et al.); `tokenizers` makes them.

Source: "Visual Transformers: Where Do Transformers Really Belong in Vision Models?" (ICCV 2021) and its arXiv
version, https://arxiv.org/abs/2006.03677, whose equation numbers stand below. Symbols: X a map of H x W pixels
with C channels, T the L visual tokens with CT channels. The authors released no code; the wiring (grouped pixel
convolutions, lifts, which tensor is key and which query) is the one whose parameters and multiply-adds equal
the papers' tables, see docs/fidelity.md. The tables do not determine norms, heads and the scale of the logits:
here every linear has a batch norm, one head, and logits of two learned vectors are divided by the square root
of their width; each is an argument.
"""

from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers.attention import attention_macs, attention_weights, multi_head_attention
from tfvt.layers.convolution import GroupedDense
from tfvt.layers.normalization import BatchNormalization
from tfvt.layers.registration import register_layer
from tfvt.layers.regularization import DropPath

Norm = Literal["batch", "layer", "bias", "none"]
GROUP_CHANNELS = 64  # a pixel-side convolution has one group per 64 channels


def pixel_groups(channels_in: int, channels_out: int) -> int:
    """Groups of a 1x1 convolution on pixels: one per 64 output channels, or the next lower number that divides both."""
    wanted = max(1, channels_out // GROUP_CHANNELS)
    return next(g for g in range(wanted, 0, -1) if channels_in % g == 0 and channels_out % g == 0)


@register_layer
class LinearNorm(keras.layers.Layer):
    """A linear layer in groups and its norm: every linear of a Visual Transformer.

    Args:
        units: output channels.
        groups: see `GroupedDense`.
        norm: "batch", "layer" or "none"; "bias", what `tfvt.fuse` makes of a batch norm.
        norm_options: arguments of the norm layer, such as {"epsilon": 1e-5}.

    Shapes: (..., C) -> (..., units).
    """

    def __init__(
        self,
        units: int,
        groups: int = 1,
        norm: Norm = "batch",
        norm_options: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units, self.groups, self.norm, self.norm_options = units, groups, norm, norm_options or {}
        self.linear = GroupedDense(units, groups, norm == "bias", name="linear", dtype=self.dtype_policy)
        self.normalize = None
        if norm in ("batch", "layer"):
            layer = BatchNormalization if norm == "batch" else keras.layers.LayerNormalization
            self.normalize = layer(name="norm", dtype=self.dtype_policy, **self.norm_options)

    def build(self, input_shape):
        self.linear.build(input_shape)
        if self.normalize is not None:
            self.normalize.build((*input_shape[:-1], self.units))

    def call(self, inputs, training=None):
        outputs = self.linear(inputs)
        return outputs if self.normalize is None else self.normalize(outputs, training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)


class VisualTokenLayer(keras.layers.Layer):
    """What the tokenizers and the layers below share: linears with a norm."""

    def __init__(self, norm: Norm = "batch", norm_options: dict | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm, self.norm_options = norm, norm_options or {}

    def linear(self, units: int, name: str, groups: int = 1) -> LinearNorm:
        return LinearNorm(units, groups, self.norm, self.norm_options, name=name, dtype=self.dtype_policy)


def pixel_list(x: Any) -> Any:
    """(B, H, W, C) -> (B, H * W, C)."""
    batch, height, width, _ = ops.shape(x)
    return ops.reshape(x, (batch, height * width, x.shape[-1]))  # not -1, which ONNX may take for 1 later


def num_pixels(x: Any) -> int:
    """H * W of a map (B, H, W, C)."""
    return x.shape[1] * x.shape[2]


@register_layer
class TokenTransformer(VisualTokenLayer):
    """Token transformer, eq. (3) and (4); the values are the tokens themselves.

    T' = T + softmax over the keys of (T K)(T Q)^T, times T;  T_out = T' + ReLU(T' F1) F2.
    The rows of eq. (3)'s product come from K: they are the queries in today's terms, `query` here.

    Args:
        key_dim: channels of K and Q, each a linear in two groups.
        mlp_dim: channels between F1 and F2.
        num_heads: heads that share the channels.
        scale_logits: divide the logits by the square root of the key width per head.
        drop_path_rate: stochastic depth of both residuals.
        norm, norm_options: of the linears, see `LinearNorm`.

    Shapes: (B, L, CT) -> (B, L, CT).
    """

    def __init__(
        self,
        key_dim: int,
        mlp_dim: int,
        num_heads: int = 1,
        scale_logits: bool = True,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key_dim, self.mlp_dim, self.num_heads = key_dim, mlp_dim, num_heads
        self.scale_logits, self.drop_path_rate = scale_logits, drop_path_rate
        self.drop_path = DropPath(drop_path_rate, name="drop_path", dtype=self.dtype_policy)

    def build(self, input_shape):
        token_dim = input_shape[-1]
        self.query = self.linear(self.key_dim, "query", groups=2)
        self.key = self.linear(self.key_dim, "key", groups=2)
        self.mlp_in = self.linear(self.mlp_dim, "mlp_in")
        self.mlp_out = self.linear(token_dim, "mlp_out")
        for linear in (self.query, self.key, self.mlp_in):
            linear.build(input_shape)
        self.mlp_out.build((*input_shape[:-1], self.mlp_dim))

    def call(self, tokens, training=None):
        query, key = self.query(tokens, training=training), self.key(tokens, training=training)
        attended = multi_head_attention(query, key, tokens, self.num_heads, self.scale_logits)  # (B, L, CT)
        tokens = tokens + self.drop_path(attended, training=training)
        hidden = ops.relu(self.mlp_in(tokens, training=training))
        return tokens + self.drop_path(self.mlp_out(hidden, training=training), training=training)

    def attention_weights(self, tokens: Any) -> Any:
        """W of eq. (3), in inference: of each token to each, (B, num_heads, L, L), sums 1 over the last axis."""
        query, key = self.query(tokens, training=False), self.key(tokens, training=False)
        return attention_weights(query, key, self.num_heads, self.scale_logits)

    def macs(self, tokens):
        return attention_macs(tokens.shape[1], tokens.shape[1], self.key_dim, tokens.shape[-1])


@register_layer
class TokenGraph(VisualTokenLayer):
    """Graph convolution on tokens, or one linear per token: the stand-ins of ICCV Table 5.

    T_out = T + ReLU(A T W) with an adjacency A (L, L) and a linear W (CT, CT), both learned and the same for
    every image. Without adjacency, T_out = T + ReLU(T W): no token sees another. The papers give neither
    residual nor non-linearity; both are as in eq. (4).

    Args:
        adjacency: have A; False is the row "None" of the table.
        drop_path_rate: stochastic depth of the residual.
        norm, norm_options: of the linear, see `LinearNorm`; A has none.

    Shapes: (B, L, CT) -> (B, L, CT).
    """

    def __init__(self, adjacency: bool = True, drop_path_rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.adjacency, self.drop_path_rate = adjacency, drop_path_rate
        self.drop_path = DropPath(drop_path_rate, name="drop_path", dtype=self.dtype_policy)

    def build(self, input_shape):
        _, num_tokens, token_dim = input_shape
        if self.adjacency:
            self.adjacency_matrix = self.add_weight(
                name="adjacency", shape=(num_tokens, num_tokens), initializer="glorot_uniform"
            )
        self.mix = self.linear(token_dim, "mix")
        self.mix.build(input_shape)

    def call(self, tokens, training=None):
        mixed = ops.matmul(self.adjacency_matrix, tokens) if self.adjacency else tokens  # (L, L) times (B, L, CT)
        branch = ops.relu(self.mix(mixed, training=training))
        return tokens + self.drop_path(branch, training=training)

    def macs(self, tokens):
        return tokens.shape[1] ** 2 * tokens.shape[2] if self.adjacency else 0


@register_layer
class Projector(VisualTokenLayer):
    """Projector, eq. (5): X_out = X_in + softmax over the L tokens of (X_in W_Q)(T W_K)^T, times T.

    Args:
        output_channels: C of X_out; X_in passes a 1x1 convolution where its channels differ, and the tokens a
            linear W_V where theirs do.
        num_heads: heads that share the channels.
        scale_logits: divide the logits by the square root of the key width per head.
        drop_path_rate: stochastic depth of what the tokens add.
        norm, norm_options: of the linears, see `LinearNorm`.

    Shapes: map (B, H, W, C_in) and tokens (B, L, CT) -> map (B, H, W, output_channels).
    """

    def __init__(
        self,
        output_channels: int,
        num_heads: int = 1,
        scale_logits: bool = True,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_channels, self.num_heads = output_channels, num_heads
        self.scale_logits, self.drop_path_rate = scale_logits, drop_path_rate
        self.drop_path = DropPath(drop_path_rate, name="drop_path", dtype=self.dtype_policy)

    def build(self, x_shape, tokens_shape):
        channels, token_dim = x_shape[-1], tokens_shape[-1]
        self.query = self.linear(self.output_channels, "query", pixel_groups(channels, self.output_channels))
        self.query.build((None, None, channels))
        self.key = self.linear(self.output_channels, "key")
        self.key.build(tokens_shape)
        self.value = self.shortcut = None
        if token_dim != self.output_channels:
            self.value = self.linear(self.output_channels, "value")
            self.value.build(tokens_shape)
        if channels != self.output_channels:
            self.shortcut = self.linear(self.output_channels, "shortcut")
            self.shortcut.build(x_shape)

    def call(self, x, tokens, training=None):
        query = self.query(pixel_list(x), training=training)  # (B, H * W, C)
        key = self.key(tokens, training=training)  # (B, L, C)
        value = tokens if self.value is None else self.value(tokens, training=training)
        branch = multi_head_attention(query, key, value, self.num_heads, self.scale_logits)  # (B, H * W, C)
        branch = ops.reshape(branch, (*ops.shape(x)[:3], self.output_channels))
        shortcut = x if self.shortcut is None else self.shortcut(x, training=training)
        return shortcut + self.drop_path(branch, training=training)

    def macs(self, x, tokens):
        return attention_macs(num_pixels(x), tokens.shape[1], self.output_channels, self.output_channels)
