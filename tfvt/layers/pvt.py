"""The block of a Pyramid Vision Transformer and its position embeddings, on maps."""

from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers.acmix import ACmix, Combine, Shift, check_acmix_options
from tfvt.layers.global_attention import GlobalAttention
from tfvt.layers.initializers import normal_start
from tfvt.layers.registration import register_layer
from tfvt.layers.regularization import DropPath
from tfvt.layers.resizing import resize_bilinear
from tfvt.layers.transformer import gelu


@register_layer
class MapPositions(keras.layers.Layer):
    """Learned position embeddings added to a map, and optionally a class token with its own (PVT, section 3.2).

    Args:
        class_token: give a class token as well.
        grid: (height, width) of the table, which is resampled to the size of each map (bilinear, as the authors do);
            None: the table has the size of the map that the layer is built for.

    Shapes: (B, H, W, C) -> (B, H, W, C), or (map, token (B, 1, C)). Without `grid`, H and W are those of the build.
    """

    def __init__(self, class_token: bool = False, grid: tuple[int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_token = class_token
        self.grid = grid and tuple(grid)

    def build(self, x_shape):
        shapes = {"patch_positions": (*(self.grid or x_shape[1:3]), x_shape[-1])}
        if self.class_token:
            shapes |= dict.fromkeys(("token", "token_position"), (1, 1, x_shape[-1]))
        for name, shape in shapes.items():
            # Each has an initializer of its own: one alone would give equal numbers to equal shapes.
            start = normal_start()["kernel_initializer"]
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer=start))

    def call(self, x):
        placed = x + self._positions(x)
        if not self.class_token:
            return placed
        token = ops.broadcast_to(self.token + self.token_position, (ops.shape(x)[0], 1, x.shape[-1]))
        return placed, ops.cast(token, placed.dtype)

    def _positions(self, x):
        if self.grid in (None, tuple(x.shape[1:3])):
            return self.patch_positions
        return ops.cast(resize_bilinear(self.patch_positions[None], ops.shape(x)[1:3]), x.dtype)

    def compute_output_shape(self, x_shape):
        return (x_shape, (x_shape[0], 1, x_shape[-1])) if self.class_token else x_shape

    def macs(self, x):
        return 0  # its tables are added, not multiplied


@register_layer
class PVTBlock(keras.layers.Layer):
    """z' = z + Mixer(LayerNorm(z)); z'' = z' + MLP(LayerNorm(z')), on a map and optionally a class token.

    Sources: PVT (Wang et al. 2021), section 3.3, https://arxiv.org/abs/2102.12122; ACmix (Pan et al. 2022), 4.5.

    Args:
        num_heads: a divisor of the channels C.
        reduction: of the keys' and values' map, see `GlobalAttention`.
        mlp_ratio: channels between the MLP's two dense layers, in C.
        mixer: "attention" or "acmix".
        shift, combine: of `ACmix`.
        dropout_rate: after the mixer and both dense layers of the MLP.
        drop_path_rate: stochastic depth of both residuals.
        layer_norm_epsilon: of the block's norms and of the reduced map's.

    Shapes: map (B, H, W, C) [, token (B, 1, C)] -> the same.
    """

    def __init__(
        self,
        num_heads: int,
        reduction: int = 1,
        mlp_ratio: int = 4,
        mixer: Literal["attention", "acmix"] = "attention",
        shift: Shift = "learned",
        combine: Combine = "both",
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_acmix_options(mixer, shift, combine)
        self.num_heads, self.reduction, self.mlp_ratio = num_heads, reduction, mlp_ratio
        self.mixer, self.shift, self.combine = mixer, shift, combine
        self.dropout_rate, self.drop_path_rate = dropout_rate, drop_path_rate
        self.layer_norm_epsilon = layer_norm_epsilon
        self.mixer_norm, self.mlp_norm = (
            keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, name=name, dtype=self.dtype_policy)
            for name in ("mixer_norm", "mlp_norm")
        )
        self.dropout = keras.layers.Dropout(dropout_rate, name="dropout", dtype=self.dtype_policy)
        self.drop_path = DropPath(drop_path_rate, name="drop_path", dtype=self.dtype_policy)

    def build(self, x_shape, token_shape=None):
        channels = x_shape[-1]
        options = {"reduction": self.reduction, "layer_norm_epsilon": self.layer_norm_epsilon}
        options |= {"name": "mixer", "dtype": self.dtype_policy}
        if self.mixer == "attention":
            self.mix = GlobalAttention(channels, self.num_heads, **options)
        else:
            options |= {"shift": self.shift, "combine": self.combine}
            self.mix = ACmix(channels, self.num_heads, "global", **options)
        self.mlp_in, self.mlp_out = (
            keras.layers.Dense(units, name=name, dtype=self.dtype_policy, **normal_start())
            for name, units in (("mlp_in", self.mlp_ratio * channels), ("mlp_out", channels))
        )
        for layer in (self.mixer_norm, self.mix, self.mlp_norm, self.mlp_in):
            layer.build(x_shape)
        self.mlp_out.build((*x_shape[:-1], self.mlp_ratio * channels))

    def call(self, x, token=None, training=None):
        states = (x,) if token is None else (x, token)
        mixed = self.mix(*(self.mixer_norm(state) for state in states))
        mixed = (mixed,) if token is None else mixed
        states = [state + self._residual(branch, training) for state, branch in zip(states, mixed, strict=True)]
        states = tuple(state + self._residual(self._mlp(state, training), training) for state in states)
        return states[0] if token is None else states

    def _mlp(self, state, training):
        hidden = gelu(self.mlp_in(self.mlp_norm(state)))
        return self.mlp_out(self.dropout(hidden, training=training))

    def _residual(self, branch, training):
        return self.drop_path(self.dropout(branch, training=training), training=training)

    def compute_output_shape(self, x_shape, token_shape=None):
        return x_shape if token_shape is None else (x_shape, token_shape)
