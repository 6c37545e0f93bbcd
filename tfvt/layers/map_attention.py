"""What the attention layers on maps share: two stages, so that a convolution can use the first one too."""

from typing import Any, Literal

import keras

from tfvt.layers.initializers import Start

Returns = Literal["attention", "both", "projections"]


class MapAttention(keras.layers.Layer):
    """Attention on a map in two stages: projections (ACmix, eq. 11), then weights and aggregation (eq. 12).

    A subclass has `build_projections(x_shape)`, `build_attention(x_shape)`, `project(x)` -> query, key, value and
    `attend(query, key, value)`, or a `call` of its own that needs more. Where it moves pixels, it also has
    `arrange(x)`, which runs before the two stages, and `restore(y, x)`, which runs after them. All take and give maps
    (B, H, W, channels).

    Args:
        returns: "attention", the output alone; "both", the tuple (output, query, key, value); "projections", the
            tuple (query, key, value), for a layer that has no weights after them. The latter two are for ACmix,
            which mixes the maps as they lie and restores them itself.
    """

    def __init__(self, returns: Returns = "attention", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.returns = returns

    def build(self, x_shape):
        self.build_projections(x_shape)
        if self.returns != "projections":
            self.build_attention(x_shape)

    def call(self, x):
        projections = self.project(self.arrange(x))
        if self.returns == "projections":
            return projections
        outputs = self.attend(*projections)
        return (outputs, *projections) if self.returns == "both" else self.restore(outputs, x)

    def arrange(self, x: Any) -> Any:
        """The map on which the layer works."""
        return x

    def restore(self, y: Any, x: Any) -> Any:
        """`y`, a map that lies as `arrange(x)`, laid as `x`."""
        return y

    def dense(self, units: int, name: str, start: Start, use_bias: bool = True) -> keras.layers.Dense:
        """A dense layer; `start` are initializers, see `tfvt.layers.initializers`."""
        return keras.layers.Dense(units, use_bias=use_bias, name=name, dtype=self.dtype_policy, **start)
