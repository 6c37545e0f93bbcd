"""The encoder layer of a vision transformer."""

import functools
import math
from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers.attention import MultiHeadAttention
from tfvt.layers.dense import TokenDense
from tfvt.layers.initializers import matrix_start
from tfvt.layers.registration import register_layer
from tfvt.layers.regularization import DropPath

Gelu = Literal["erf", "tanh"]


def gelu(x: Any, form: Gelu = "erf") -> Any:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016).

    Args:
        x: of any shape.
        form: "erf", the definition x * Phi(x), or "tanh", the approximation that Google's models are trained with.
    """
    if form == "tanh":
        return keras.activations.gelu(x, approximate=True)
    # Not keras' exact form: that is written with erfc, which ONNX does not have.
    return 0.5 * x * (1 + ops.erf(x * math.sqrt(0.5)))


_gelu = gelu  # the layer's argument has the same name


@register_layer
class TransformerEncoderLayer(keras.layers.Layer):
    """A pre-norm encoder layer (Dosovitskiy et al. 2021, eq. 2 and 3).

    z' = z + Attention(LayerNorm(z)); z'' = z' + MLP(LayerNorm(z')).
    With a context c, the keys and values are LayerNorm(c) and only z is the query: the "pool-query-only" layer
    after a funnel pooling, z pooled and c not (Funnel-ViT, section 3.2).

    Args:
        num_heads: a divisor of the width C.
        mlp_dim: channels between the MLP's two dense layers.
        gelu: "erf" or "tanh", see `gelu`.
        dropout_rate: after the attention's output and both dense layers of the MLP.
        attention_dropout_rate: of the attention weights.
        drop_path_rate: stochastic depth of both residuals.
        layer_norm_epsilon: of both norms.
        kernel_stddev: standard deviation of the normal distribution that the matrices start from; None: Glorot's.

    Shapes: (B, L, C), optionally with a context (B, K, C) -> (B, L, C).
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        gelu: Gelu = "erf",
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        kernel_stddev: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.mlp_dim, self.gelu = num_heads, mlp_dim, gelu
        self.dropout_rate, self.attention_dropout_rate = dropout_rate, attention_dropout_rate
        self.drop_path_rate, self.layer_norm_epsilon = drop_path_rate, layer_norm_epsilon
        self.kernel_stddev = kernel_stddev
        self.attention = MultiHeadAttention(
            num_heads, attention_dropout_rate, kernel_stddev, name="attention", dtype=self.dtype_policy
        )
        self.attention_norm, self.mlp_norm = (
            keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, name=name, dtype=self.dtype_policy)
            for name in ("attention_norm", "mlp_norm")
        )
        activation = functools.partial(_gelu, form=gelu)
        start = {"kernel_initializer": matrix_start(kernel_stddev), "dtype": self.dtype_policy}
        self.mlp_in = TokenDense(mlp_dim, activation, name="mlp_in", **start)
        self.dropout = keras.layers.Dropout(dropout_rate, name="dropout", dtype=self.dtype_policy)
        self.drop_path = DropPath(drop_path_rate, name="drop_path", dtype=self.dtype_policy)

    def build(self, x_shape, context_shape=None):
        self.attention_norm.build(x_shape)
        self.attention.build(x_shape)
        self.mlp_norm.build(x_shape)
        self.mlp_in.build(x_shape)
        start = {"kernel_initializer": matrix_start(self.kernel_stddev), "dtype": self.dtype_policy}
        self.mlp_out = TokenDense(x_shape[-1], name="mlp_out", **start)
        self.mlp_out.build((*x_shape[:-1], self.mlp_dim))

    def call(self, x, context=None, training=None):
        normed = (
            (self.attention_norm(x),) if context is None else (self.attention_norm(x), self.attention_norm(context))
        )
        x = x + self._residual(self.attention(*normed, training=training), training)
        hidden = self.mlp_in(self.mlp_norm(x))
        return x + self._residual(self.mlp_out(self.dropout(hidden, training=training)), training)

    def attention_weights(self, x: Any, context: Any = None) -> Any:
        """What the layer's attention weighs when it is called: (B, num_heads, L, K), see `MultiHeadAttention`."""
        return self.attention.attention_weights(
            self.attention_norm(x), None if context is None else self.attention_norm(context)
        )

    def _residual(self, branch, training):
        return self.drop_path(self.dropout(branch, training=training), training=training)

    def compute_output_shape(self, x_shape, context_shape=None):
        return x_shape
