"""The block of a Swin Transformer, with its attention, ACmix or a convolution as the mixer of pixels."""

from typing import Any, Literal

import keras

from tfvt.layers.acmix import ACmix, Combine, Shift, check_acmix_options
from tfvt.layers.initializers import normal_start, torch_start
from tfvt.layers.registration import register_layer
from tfvt.layers.regularization import DropPath
from tfvt.layers.transformer import gelu
from tfvt.layers.window_attention import WindowAttention

Mixer = Literal["attention", "acmix", "convolution"]


@register_layer
class SwinBlock(keras.layers.Layer):
    """z' = z + Mixer(LayerNorm(z)); z'' = z' + MLP(LayerNorm(z')), on a map.

    Sources: Swin Transformer (Liu et al. 2021), eq. (3), https://arxiv.org/abs/2103.14030; ACmix (Pan et al. 2022),
    section 4.5 and, for the convolution, Table 6.

    Args:
        num_heads: a divisor of the channels C.
        window_size: side of a window in pixels.
        shift_size: pixels of the cyclic shift: 0, or half a window in every other block.
        mlp_ratio: channels between the MLP's two dense layers, in C.
        mixer: "attention", see `WindowAttention`; "acmix", see `ACmix`; "convolution", a dense 3x3 convolution in
            place of the whole attention module.
        shift, combine: of `ACmix`.
        dropout_rate: after the mixer and both dense layers of the MLP.
        drop_path_rate: stochastic depth of both residuals.
        layer_norm_epsilon: of both norms.

    Shapes: (B, H, W, C) -> (B, H, W, C), any H and W.
    """

    def __init__(
        self,
        num_heads: int,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: int = 4,
        mixer: Mixer = "attention",
        shift: Shift = "learned",
        combine: Combine = "both",
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_acmix_options(mixer, shift, combine)
        self.num_heads, self.window_size, self.shift_size = num_heads, window_size, shift_size
        self.mlp_ratio, self.mixer, self.shift, self.combine = mlp_ratio, mixer, shift, combine
        self.dropout_rate, self.drop_path_rate = dropout_rate, drop_path_rate
        self.layer_norm_epsilon = layer_norm_epsilon
        self.mixer_norm, self.mlp_norm = (
            keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, name=name, dtype=self.dtype_policy)
            for name in ("mixer_norm", "mlp_norm")
        )
        self.dropout = keras.layers.Dropout(dropout_rate, name="dropout", dtype=self.dtype_policy)
        self.drop_path = DropPath(drop_path_rate, name="drop_path", dtype=self.dtype_policy)

    def build(self, x_shape):
        channels = x_shape[-1]
        self.mix = self._make_mixer(channels, name="mixer", dtype=self.dtype_policy)
        self.mlp_in, self.mlp_out = (
            keras.layers.Dense(units, name=name, dtype=self.dtype_policy, **normal_start())
            for name, units in (("mlp_in", self.mlp_ratio * channels), ("mlp_out", channels))
        )
        for layer in (self.mixer_norm, self.mix, self.mlp_norm, self.mlp_in):
            layer.build(x_shape)
        self.mlp_out.build((*x_shape[:-1], self.mlp_ratio * channels))

    def _make_mixer(self, channels, **kwargs):
        if self.mixer == "convolution":
            return keras.layers.Conv2D(channels, 3, padding="same", **torch_start(9 * channels), **kwargs)
        if self.mixer == "attention":
            return WindowAttention(channels, self.num_heads, self.window_size, self.shift_size, **kwargs)
        return ACmix(
            channels,
            self.num_heads,
            attention="window",
            attention_kernel_size=self.window_size,
            shift_size=self.shift_size,
            shift=self.shift,
            combine=self.combine,
            **kwargs,
        )

    def call(self, x, training=None):
        x = x + self._residual(self.mix(self.mixer_norm(x)), training)
        hidden = self.dropout(gelu(self.mlp_in(self.mlp_norm(x))), training=training)
        return x + self._residual(self.mlp_out(hidden), training)

    def attention_weights(self, x: Any) -> Any:
        """What the block's window attention weighs when it is called, see `WindowAttention`; also inside an ACmix."""
        attention = self.mix.attention_path if self.mixer == "acmix" else self.mix
        return attention.attention_weights(self.mixer_norm(x))

    def _residual(self, branch, training):
        return self.drop_path(self.dropout(branch, training=training), training=training)

    def compute_output_shape(self, x_shape):
        return x_shape
