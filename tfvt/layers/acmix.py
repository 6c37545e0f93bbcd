"""ACmix: self-attention and convolution from one set of projections.

Source: "On the Integration of Self-Attention and Convolution" (Pan et al., CVPR 2022). Equation numbers below are the
paper's. Stage I is three 1x1 projections q, k, v of the map, in pieces of d channels. Stage II uses them twice: as
queries, keys and values of attention, and through a light dense layer as the k^2 maps that a convolution shifts and
sums.
"""

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfvt.layers.convolution import grouped_conv2d, strided_window
from tfvt.layers.global_attention import GlobalAttention
from tfvt.layers.initializers import torch_start
from tfvt.layers.local_attention import LocalAttention, check_divisor, check_kernel_size
from tfvt.layers.patchwise_attention import SANAttention
from tfvt.layers.registration import register_layer
from tfvt.layers.window_attention import WindowAttention

Shift = Literal["tensor", "fixed", "random", "learned"]
Combine = Literal["both", "sum", "alpha", "complement", "attention", "convolution"]
Attention = Literal["local", "window", "patchwise", "global"]


def shift_kernel(kernel_size: int, filters: int) -> np.ndarray:
    """(k, k, k^2, filters): of group member p, the kernel is 1 at the p-th position alone (eq. 15)."""
    positions = kernel_size**2
    kernel = np.eye(positions, dtype="float32").reshape(kernel_size, kernel_size, positions, 1)
    return np.repeat(kernel, filters, axis=-1)


@keras.saving.register_keras_serializable(package="tfvt")
class ShiftInitializer(keras.initializers.Initializer):
    """A grouped kernel (k, k, k^2, filters) that shifts the maps and sums them, see `shift_kernel`."""

    def __call__(self, shape, dtype=None):
        return ops.cast(shift_kernel(shape[0], shape[-1]), dtype or "float32")


@register_layer
class ConvolutionPath(keras.layers.Layer):
    """The convolution of ACmix: k^2 maps of each d-channel piece, shifted and summed (section 4.2 and 4.3).

    The dense layer reads channel i of all pieces and is shared by the d channels. Group i of the convolution reads
    its k^2 results and writes the channels i * filters / d + j.

    Args:
        filters: output channels, a multiple of d.
        piece_dim: d, a divisor of the channels of q, k and v.
        kernel_size: k, odd.
        strides: of the convolution.
        reduction: of k and v, whose maps are 1 / reduction as high and wide as that of q. The layer repeats them to
            its size. The dense layer is linear, so it may read them before that.
        use_bias: of the dense layer.
        shift: "learned", a convolution in d groups that starts as the shifts of eq. (7); "random", from a random
            start; "fixed", those shifts as a convolution that stays untrained (eq. 16); "tensor", shifted tensors
            (eq. 14).

    Shapes: q (B, H, W, Cq), k and v (B, H / reduction, W / reduction, ...) -> (B, H / strides, W / strides, filters),
    rounded up.
    """

    def __init__(
        self,
        filters: int,
        piece_dim: int,
        kernel_size: int = 3,
        strides: int = 1,
        reduction: int = 1,
        use_bias: bool = False,
        shift: Shift = "learned",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_kernel_size("kernel_size", kernel_size)
        check_divisor("piece_dim", piece_dim, filters)
        self.filters, self.piece_dim, self.kernel_size, self.strides = filters, piece_dim, kernel_size, strides
        self.reduction, self.use_bias, self.shift = reduction, use_bias, shift

    def build(self, query_shape, key_shape, value_shape):
        pieces = sum(shape[-1] // self.piece_dim for shape in (query_shape, key_shape, value_shape))
        positions = self.kernel_size**2
        start = torch_start(pieces)
        self.mixing_kernel = self.add_weight(
            name="mixing_kernel", shape=(pieces, positions), initializer=start["kernel_initializer"]
        )
        if self.use_bias:
            self.mixing_bias = self.add_weight(
                name="mixing_bias", shape=(positions,), initializer=start["bias_initializer"]
            )
        if self.shift in ("learned", "random"):
            self.kernel = self.add_weight(
                name="kernel",
                shape=(self.kernel_size, self.kernel_size, positions, self.filters),
                initializer=ShiftInitializer()
                if self.shift == "learned"
                else torch_start(positions**2)["kernel_initializer"],
            )

    def call(self, query, key, value):
        if self._folds():
            return self._convolve_pieces(query, key, value)
        if self.reduction == 1:
            maps = self._mix(ops.concatenate([query, key, value], axis=-1), 0)  # (B, H, W, d * k^2)
        else:
            reduced = self._mix(ops.concatenate([key, value], axis=-1), query.shape[-1] // self.piece_dim)
            for axis in (1, 2):
                reduced = ops.repeat(reduced, self.reduction, axis=axis)
            height, width = ops.shape(query)[1:3]
            maps = self._mix(query, 0) + reduced[:, :height, :width]  # (B, H, W, d * k^2)
        if self.use_bias:
            maps = maps + ops.tile(self.mixing_bias, (self.piece_dim,))
        return self._shift_and_sum(maps)

    def _folds(self):
        """Whether the dense layer and the convolution are one: where there are fewer pieces than maps.

        On two CPU cores the folded form is 2.2 times as fast with 3 pieces and 1.6 times with 6 (the first two stages
        of PVT, whose repeated maps are smaller as well); it gains nothing with 12, and with 15 it is slower.
        """
        fewer = self.mixing_kernel.shape[0] < self.kernel_size**2
        return fewer and not self.use_bias and self.shift != "tensor"  # the maps' border is 0, also with a bias

    def _convolve_pieces(self, query, key, value):
        batch, height, width, _ = ops.shape(query)
        if self.reduction > 1:
            for axis in (1, 2):
                key, value = (ops.repeat(x, self.reduction, axis=axis) for x in (key, value))
            key, value = (x[:, :height, :width] for x in (key, value))
        pieces, positions = self.mixing_kernel.shape
        x = ops.reshape(ops.concatenate([query, key, value], axis=-1), (-1, pieces, self.piece_dim))
        x = ops.reshape(ops.transpose(x, (0, 2, 1)), (batch, height, width, self.piece_dim * pieces))
        kernel = ops.reshape(ops.cast(self._kernel(), x.dtype), (positions, positions, self.filters))
        kernel = ops.matmul(self.mixing_kernel, kernel)  # (k^2, n, filters)
        kernel = ops.reshape(kernel, (self.kernel_size, self.kernel_size, pieces, self.filters))
        return grouped_conv2d(self._padded(x), kernel, self.strides)

    def _mix(self, x, first):
        """(B, H, W, n * d) through the rows of the dense layer from `first`: (B, H, W, d * k^2)."""
        batch, height, width, _ = ops.shape(x)
        pieces, positions = x.shape[-1] // self.piece_dim, self.kernel_size**2
        x = ops.reshape(x, (-1, pieces, self.piece_dim))  # (B * H * W, n, d)
        # One matrix product of many rows: far faster than a small one for every pixel.
        x = ops.reshape(ops.transpose(x, (0, 2, 1)), (-1, pieces))  # (B * H * W * d, n)
        x = ops.matmul(x, self.mixing_kernel[first : first + pieces])  # (B * H * W * d, k^2)
        return ops.reshape(x, (batch, height, width, self.piece_dim * positions))

    def _kernel(self):
        return shift_kernel(self.kernel_size, self.filters) if self.shift == "fixed" else self.kernel

    def _padded(self, x):
        padding = self.kernel_size // 2
        # Not "same" padding: at stride 2 it would see pixels other than those on which the attention is centred.
        return ops.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]])

    def _shift_and_sum(self, maps):
        size = self.kernel_size
        maps = self._padded(maps)
        if self.shift != "tensor":
            return grouped_conv2d(maps, ops.cast(self._kernel(), maps.dtype), self.strides)
        batch, height, width, _ = ops.shape(maps)
        maps = ops.reshape(maps, (batch, height, width, self.piece_dim, size**2))  # (B, H + k - 1, W + k - 1, d, k^2)
        shifted = [
            strided_window(maps, p // size, p % size, size, self.strides)[..., p] for p in range(size**2)
        ]  # eq. (7), each (B, H / strides, W / strides, d)
        return ops.repeat(sum(shifted), self.filters // self.piece_dim, axis=-1)  # eq. (8), (..., filters)

    def compute_output_shape(self, query_shape, key_shape, value_shape):
        rows, columns = (None if size is None else -(-size // self.strides) for size in query_shape[1:3])
        return (query_shape[0], rows, columns, self.filters)

    def macs(self, query, key, value):
        positions, convolution = self.kernel_size**2, 0
        mixing = sum(x.shape[1] * x.shape[2] * x.shape[3] for x in (query, key, value)) * positions
        if self.shift != "tensor":
            _, rows, columns, filters = self.compute_output_shape(query.shape, key.shape, value.shape)
            convolution = rows * columns * filters * positions**2
        return mixing + convolution


@register_layer
class ACmix(keras.layers.Layer):
    """Attention and convolution of the same projections: F = alpha attention + beta convolution (eq. 13).

    Args:
        filters: C', output channels.
        num_heads: N, a divisor of `filters`; the pieces of the convolution path have d = C' / N channels as well.
        attention: "local", see `LocalAttention`; "window", see `WindowAttention`, whose padded and shifted map the
            convolution reads too; "patchwise", see `SANAttention`, whose `share` is `num_heads`; "global", see
            `GlobalAttention`.
        attention_kernel_size: k_a, side of the neighbourhood or of the window.
        conv_kernel_size: k_c of the convolution path, odd.
        strides: of local attention and of the convolution; 1 with other attentions.
        shift: "learned", "random", "fixed" or "tensor", see `ConvolutionPath` (Table 7).
        combine: "both", alpha and beta learned, from 0.5; "sum", both 1; "alpha", alpha learned and beta 1;
            "complement", alpha learned and beta 1 - alpha (Table 6); "attention" or "convolution", that path alone.
        shift_size: of window attention, else 0.
        reduction, layer_norm_epsilon: of global attention, else 1 and the default.
        batch_norm_options: of patchwise attention.

    Shapes: (B, H, W, C) -> (B, ceil(H / strides), ceil(W / strides), C'). With a class token (B, 1, C) beside the
    map, for global attention: the tuple (map, token), where the convolution does not read the token.

    Raises:
        ValueError: channels that the heads do not divide, or a map that is too small to reflect.
    """

    def __init__(
        self,
        filters: int,
        num_heads: int = 4,
        attention: Attention = "local",
        attention_kernel_size: int = 7,
        conv_kernel_size: int = 3,
        strides: int = 1,
        shift: Shift = "learned",
        combine: Combine = "both",
        shift_size: int = 0,
        reduction: int = 1,
        layer_norm_epsilon: float = 1e-6,
        batch_norm_options: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_option("strides", strides, 1, attention, "local")
        _check_option("shift_size", shift_size, 0, attention, "window")
        _check_option("reduction", reduction, 1, attention, "global")
        _check_option("layer_norm_epsilon", layer_norm_epsilon, 1e-6, attention, "global")
        _check_option("batch_norm_options", batch_norm_options, None, attention, "patchwise")
        check_divisor("num_heads", num_heads, filters)
        check_kernel_size("conv_kernel_size", conv_kernel_size)
        if attention in ("local", "patchwise"):
            check_kernel_size("attention_kernel_size", attention_kernel_size)
        self.filters, self.num_heads, self.attention = filters, num_heads, attention
        self.attention_kernel_size, self.conv_kernel_size = attention_kernel_size, conv_kernel_size
        self.strides, self.shift, self.combine, self.shift_size = strides, shift, combine, shift_size
        self.reduction, self.layer_norm_epsilon = reduction, layer_norm_epsilon
        self.batch_norm_options = batch_norm_options
        returns = {"attention": "attention", "convolution": "projections"}.get(combine, "both")
        self.attention_path = self._make_attention(returns=returns, name="attention", dtype=self.dtype_policy)
        self.convolution_path = None
        if combine != "attention":
            self.convolution_path = ConvolutionPath(
                filters,
                filters // num_heads,
                conv_kernel_size,
                strides,
                reduction,
                use_bias=attention == "window",  # as the authors' Swin has it
                shift=shift,
                name="convolution",
                dtype=self.dtype_policy,
            )

    def _make_attention(self, **kwargs):
        size = self.attention_kernel_size
        if self.attention == "window":
            return WindowAttention(self.filters, self.num_heads, size, self.shift_size, **kwargs)
        if self.attention == "patchwise":
            return SANAttention(self.filters, self.num_heads, size, self.batch_norm_options, **kwargs)
        if self.attention == "global":
            return GlobalAttention(self.filters, self.num_heads, self.reduction, self.layer_norm_epsilon, **kwargs)
        return LocalAttention(self.filters, self.num_heads, size, self.strides, **kwargs)

    def build(self, x_shape, token_shape=None):
        self.attention_path.build(x_shape)
        if self.convolution_path is not None:
            projected = self.attention_path.compute_output_shape(x_shape)[-3:]
            self.convolution_path.build(*projected)
        if self.combine in ("both", "alpha", "complement"):
            self.alpha = self.add_weight(name="alpha", shape=(), initializer=keras.initializers.Constant(0.5))
        if self.combine == "both":
            self.beta = self.add_weight(name="beta", shape=(), initializer=keras.initializers.Constant(0.5))

    def call(self, x, token=None, training=None):  # Keras hands `training` on to the norms of patchwise attention
        inputs = (x,) if token is None else (x, token)
        if self.combine == "attention":
            return self.attention_path(*inputs)
        if self.combine == "convolution":
            if token is not None:
                raise ValueError("combine='convolution' leaves out a class token: expected one that attends")
            return self.attention_path.restore(self.convolution_path(*self.attention_path(x)), x)
        attention, *projections = self.attention_path(*inputs)
        convolution = self.convolution_path(*projections)
        alpha, beta = self.rates()
        if token is not None:
            attention, token = attention
            return alpha * attention + beta * convolution, alpha * token
        return self.attention_path.restore(alpha * attention + beta * convolution, x)

    def rates(self) -> tuple[Any, Any]:
        """(alpha, beta) of eq. (13): tensors where they are learned, else numbers."""
        if self.combine == "both":
            return self.alpha, self.beta
        if self.combine in ("alpha", "complement"):
            return self.alpha, 1 if self.combine == "alpha" else 1 - self.alpha
        return int(self.combine != "convolution"), int(self.combine != "attention")

    def compute_output_shape(self, x_shape, token_shape=None):
        rows, columns = (None if size is None else -(-size // self.strides) for size in x_shape[1:3])
        outputs = (x_shape[0], rows, columns, self.filters)
        return outputs if token_shape is None else (outputs, token_shape)


def check_acmix_options(mixer: str, shift: Shift, combine: Combine) -> None:
    """Raise a ValueError where a block without ACmix is given what only ACmix has."""
    for argument, value, default in (("shift", shift, "learned"), ("combine", combine, "both")):
        if value != default and mixer != "acmix":
            raise ValueError(f"{argument}={value!r} is for mixer='acmix', not {mixer!r}")


def _check_option(argument, value, default, attention, of):
    """Raise a ValueError where an option of one attention is given to another."""
    if value != default and attention != of:
        raise ValueError(f"{argument}={value} is for attention={of!r}, not {attention!r}")
