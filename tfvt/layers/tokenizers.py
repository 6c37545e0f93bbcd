"""Tokenizers: from the pixels of a map to a few visual tokens (Visual Transformers, eq. 1, 2 and 6).

All are called alike: map (B, H, W, C) and the tokens (B, L, CT) of the module before, which only the recurrent one
needs -> tokens (B, L, CT) and attention (B, H, W, L), the weight of every pixel in every token.

`tfvt.layers.visual_tokens` has what these layers share with those that work on the tokens.
"""

import math
from typing import Any

from keras import ops

from tfvt.layers.attention import attention_macs, softmax
from tfvt.layers.registration import register_layer
from tfvt.layers.visual_tokens import VisualTokenLayer, num_pixels, pixel_groups, pixel_list


def token_grid(num_tokens: int) -> tuple[int, int]:
    """The most square (rows, columns) with rows * columns = num_tokens, rows <= columns: 8 -> (2, 4)."""
    rows = max(r for r in range(1, math.isqrt(num_tokens) + 1) if num_tokens % r == 0)
    return rows, num_tokens // rows


def unit_vectors(x: Any) -> Any:
    """`x` divided by its length along the last axis; zero vectors stay zero, with a gradient that is finite."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


def kmeans(pixels: Any, centroids: Any, iterations: int) -> Any:
    """Lloyd's algorithm on unit vectors (arXiv Appendix C, Listing 1).

    A pixel belongs to the centroid with the greatest cosine, which among unit vectors is the nearest one. The
    listing divides by the number of members and normalises; normalising the sum is the same. A cluster without
    members keeps its centroid (the listing would divide zero by zero). All of it runs in float32: half precision
    rounds cosines so coarsely that pixels change their cluster, and in float16 squares overflow.

    Args:
        pixels: (B, P, C).
        centroids: (B, L, C), where to start.
        iterations: of Lloyd's algorithm.

    Returns:
        (B, L, C), unit vectors, in the dtype of `pixels`.
    """
    dtype = pixels.dtype
    pixels, centroids = (unit_vectors(ops.cast(x, "float32")) for x in (pixels, centroids))
    for _ in range(iterations):
        nearest = ops.argmax(ops.matmul(pixels, ops.swapaxes(centroids, 1, 2)), axis=-1)  # of (B, P, L): (B, P)
        members = ops.one_hot(nearest, centroids.shape[1], dtype="float32")  # (B, P, L)
        total = ops.matmul(ops.swapaxes(members, 1, 2), pixels)  # (B, L, C)
        occupied = ops.expand_dims(ops.sum(members, axis=1) > 0, -1)  # (B, L, 1)
        centroids = ops.where(occupied, unit_vectors(total), centroids)
    return ops.cast(centroids, dtype)


class Tokenizer(VisualTokenLayer):
    """The base of all tokenizers: L tokens of CT channels, lifted by a linear from the C channels of the map.

    A subclass calls `build_lift(C)` in `build(x_shape, tokens_shape=None)` and has `call(x, tokens=None,
    training=None)`.
    """

    def __init__(self, num_tokens: int, token_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_tokens, self.token_dim = num_tokens, token_dim

    def build_lift(self, channels: int) -> None:
        """The linear from C to CT channels, where they differ."""
        self.lift = None
        if channels != self.token_dim:
            self.lift = self.linear(self.token_dim, "lift")
            self.lift.build((None, self.num_tokens, channels))

    def lifted(self, tokens: Any, training: bool | None) -> Any:
        """(B, L, C) -> (B, L, CT)."""
        return tokens if self.lift is None else self.lift(tokens, training=training)

    def compute_output_shape(self, x_shape, tokens_shape=None):
        return (x_shape[0], self.num_tokens, self.token_dim), (*x_shape[:3], self.num_tokens)


class _PixelTokenizer(Tokenizer):
    """A tokenizer that averages pixels with weights: T = softmax over the pixels of `logits`, times value(X)."""

    def build_value(self, channels: int) -> None:
        """The grouped value convolution, and the lift."""
        self.value = self.linear(channels, "value", pixel_groups(channels, channels))
        self.value.build((None, None, channels))
        self.build_lift(channels)

    def tokenize(self, logits: Any, pixels: Any, map_shape: tuple, training: bool | None) -> tuple[Any, Any]:
        """Tokens (B, L, CT) and attention (B, H, W, L) from logits (B, P, L) and pixels (B, P, C)."""
        attention = ops.cast(softmax(ops.swapaxes(logits, 1, 2)), pixels.dtype)  # (B, L, P)
        value = pixels if self.value is None else self.value(pixels, training=training)
        tokens = self.lifted(ops.matmul(attention, value), training)
        return tokens, ops.reshape(ops.swapaxes(attention, 1, 2), (*map_shape[:3], self.num_tokens))

    def macs(self, x, tokens=None):
        """Products of logits and of weighted sums; the iterations of k-means are not counted, as in the paper."""
        return attention_macs(self.num_tokens, num_pixels(x), x.shape[-1], x.shape[-1])


def _resize_to_tokens(x, num_tokens):
    """(B, H, W, C) -> (B, num_tokens, C): bilinear, half-pixel centres, no antialiasing."""
    grid = ops.image.resize(x, token_grid(num_tokens), interpolation="bilinear")
    grid = ops.cast(grid, x.dtype)  # TensorFlow resizes half precision into float32
    return ops.reshape(grid, (-1, num_tokens, x.shape[-1]))


@register_layer
class FilterTokenizer(_PixelTokenizer):
    """Filter-based tokenizer, eq. (1): T = softmax over HW of (X W_A), transposed, times value(X).

    Args:
        num_tokens: L.
        token_dim: CT; the tokens are lifted to it by a linear where it differs from C.
        pixel_value: False: T sums the pixels themselves, as in VT-FPN.
        norm, norm_options: of the linears, see `LinearNorm`; W_A has none.

    Shapes: map (B, H, W, C) -> tokens (B, L, CT) and attention (B, H, W, L), which sums to 1 over the pixels.
    """

    def __init__(self, num_tokens: int, token_dim: int, pixel_value: bool = True, **kwargs: Any) -> None:
        super().__init__(num_tokens, token_dim, **kwargs)
        self.pixel_value = pixel_value

    def build(self, x_shape, tokens_shape=None):
        channels = x_shape[-1]
        self.w_a = self.add_weight(name="w_a", shape=(channels, self.num_tokens), initializer="glorot_uniform")
        if self.pixel_value:
            self.build_value(channels)
        else:
            self.value = None
            self.build_lift(channels)

    def call(self, x, tokens=None, training=None):
        pixels = pixel_list(x)
        return self.tokenize(ops.matmul(pixels, self.w_a), pixels, ops.shape(x), training)


@register_layer
class ClusterTokenizer(_PixelTokenizer):
    """Clustering-based tokenizer, eq. (6): as the filter tokenizer, with k-means centroids of X for W_A.

    Args:
        num_tokens: L; the centroids start as X resized bilinearly to the most square grid of L pixels.
        token_dim: CT.
        iterations: of Lloyd's algorithm (not in the papers).
        gradient: let gradients pass into the centroids (not in the papers); by default they are constants.
        norm, norm_options: of the linears, see `LinearNorm`.

    Shapes: map (B, H, W, C) -> tokens (B, L, CT) and attention (B, H, W, L), which sums to 1 over the pixels.
    """

    def __init__(
        self,
        num_tokens: int,
        token_dim: int,
        iterations: int = 5,
        gradient: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_tokens, token_dim, **kwargs)
        self.iterations, self.gradient = iterations, gradient

    def build(self, x_shape, tokens_shape=None):
        self.build_value(x_shape[-1])

    def call(self, x, tokens=None, training=None):
        pixels = pixel_list(x)
        start = _resize_to_tokens(ops.cast(x, "float32"), self.num_tokens)
        exact = ops.cast(pixels, "float32")  # rounding a logit to half precision can change its weight by percents
        centroids = kmeans(exact, start, self.iterations)
        if not self.gradient:
            centroids = ops.stop_gradient(centroids)
        logits = ops.matmul(exact, ops.swapaxes(centroids, 1, 2))  # (B, P, L)
        return self.tokenize(logits, pixels, ops.shape(x), training)


@register_layer
class RecurrentTokenizer(_PixelTokenizer):
    """Recurrent tokenizer, eq. (2): W_R = T_in W_TR; T = softmax over HW of (key(X) W_R^T), transposed, times value(X).

    The paper leaves out the transpose of W_R, and its W_TR is CT x C.

    Args:
        num_tokens: tokens that the layer renews, at most as many as come in; the others follow them unchanged.
        token_dim: CT.
        scale_logits: divide the logits by the square root of C.
        norm, norm_options: of the linears, see `LinearNorm`.

    Shapes: map (B, H, W, C) and tokens (B, L, CT) -> tokens (B, L, CT) and the attention (B, H, W, num_tokens)
    of the renewed ones, which sums to 1 over the pixels.
    """

    def __init__(self, num_tokens: int, token_dim: int, scale_logits: bool = True, **kwargs: Any) -> None:
        super().__init__(num_tokens, token_dim, **kwargs)
        self.scale_logits = scale_logits

    def build(self, x_shape, tokens_shape):
        channels = x_shape[-1]
        if self.num_tokens > tokens_shape[1]:
            raise ValueError(f"num_tokens={self.num_tokens}: only {tokens_shape[1]} tokens come in to be renewed")
        self.query = self.linear(channels, "query")
        self.query.build((None, self.num_tokens, self.token_dim))
        self.key = self.linear(channels, "key", pixel_groups(channels, channels))
        self.key.build((None, None, channels))
        self.build_value(channels)

    def call(self, x, tokens, training=None):
        pixels = pixel_list(x)
        query = self.query(tokens[:, : self.num_tokens], training=training)
        if self.scale_logits:
            query = query * x.shape[-1] ** -0.5
        logits = ops.matmul(self.key(pixels, training=training), ops.swapaxes(query, 1, 2))  # (B, P, L)
        renewed, attention = self.tokenize(logits, pixels, ops.shape(x), training)
        if self.num_tokens < tokens.shape[1]:
            renewed = ops.concatenate([renewed, tokens[:, self.num_tokens :]], axis=1)
        return renewed, attention

    def compute_output_shape(self, x_shape, tokens_shape):
        return tokens_shape, (*x_shape[:3], self.num_tokens)


@register_layer
class PoolTokenizer(Tokenizer):
    """Pooling-based tokenizer (ICCV Table 3): X resized bilinearly to a grid of L pixels, lifted to CT.

    Args:
        num_tokens: L, as the most square grid.
        token_dim: CT; no lift where it equals C.
        norm, norm_options: of the lift, see `LinearNorm`.

    Shapes: map (B, H, W, C) -> tokens (B, L, CT) and attention (B, H, W, L), the weights of the resizing, which sum to
    1 over the pixels.
    """

    def build(self, x_shape, tokens_shape=None):
        self.build_lift(x_shape[-1])

    def call(self, x, tokens=None, training=None):
        batch, height, width, _ = ops.shape(x)
        pooled = self.lifted(_resize_to_tokens(x, self.num_tokens), training)
        rows, columns = token_grid(self.num_tokens)
        # A pixel's weight in a token is that of its row times that of its column.
        row_weights = _resize_weights(height, rows)[:, None, :, None]  # (H, 1, rows, 1)
        column_weights = _resize_weights(width, columns)[None, :, None, :]  # (1, W, 1, columns)
        attention = ops.reshape(row_weights * column_weights, (1, height, width, self.num_tokens))
        attention = ops.broadcast_to(attention, (batch, height, width, self.num_tokens))
        return pooled, ops.cast(attention, pooled.dtype)


def _resize_weights(size, new_size):
    """(size, new_size): the weight of each of `size` values in each of `new_size` that bilinear resizing makes."""
    places = ops.arange(size)
    identity = ops.cast(places[:, None] == places, "float32")  # a row of pixels with a channel for each
    return ops.transpose(ops.reshape(ops.image.resize(identity[None, None], (1, new_size)), (new_size, size)))
