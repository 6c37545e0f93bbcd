"""Attention inside the layers of a ViT, a Funnel-ViT or a Swin: over the image, how local it is, and its rollout.

Sources: Visual Transformers (Wu et al., ICCV 2021), section 6 and Figure 5, for localness; attention rollout (Abnar and
Zuidema 2020), https://arxiv.org/abs/2005.00928. Patches of a Funnel-ViT are pooled, and windows of a Swin are padded
and shifted: all that is here undoes both, so that maps lie on the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import keras
import numpy as np

from tfvt.analysis.intermediate import array, layers_of, spread, values
from tfvt.layers import FunnelPooling, PatchMerging, SwinBlock, TokenEmbedding, TransformerEncoderLayer
from tfvt.layers.funnel import pooled_grid

Place = tuple[int, int]


class LayerAttention(Protocol):
    """The attention of one layer for some images.

    Attributes:
        name: of the layer.
        weights: as the layer has them.
        grid: (rows, columns) of the map that `maps` gives: the patches, or the pixels of the layer's map.
    """

    name: str
    weights: np.ndarray
    grid: tuple[int, int]

    def maps(self, place: Place | None = None) -> np.ndarray:
        """What one query looks at, (B, heads, rows, columns): that at (row, column), or the class token."""

    def localness(self) -> np.ndarray:
        """Share of the attention that stays in the 3x3 around a query, a mean over queries: (B, heads)."""

    def uniform_localness(self) -> float:
        """`localness` of a layer that looks equally at all that it can reach."""
        return float(replace(self, weights=np.ones_like(self.weights[:1])).localness().mean())


@dataclass(frozen=True)
class PatchAttention(LayerAttention):
    """Attention of tokens: `weights` (B, heads, Q, K), the class token first.

    Attributes:
        queries, keys: which token, from 0, each patch of the image is in, (rows * columns,); pooled ones have several.
    """

    name: str
    weights: np.ndarray
    grid: tuple[int, int]
    queries: np.ndarray
    keys: np.ndarray

    def maps(self, place: Place | None = None) -> np.ndarray:
        """Attention of the class token, or of the token with the patch at `place`; patches share their token's alike.

        Attention to the class token is left out: what is missing from a sum of 1.
        """
        query = 0 if place is None else 1 + self.queries[np.ravel_multi_index(place, self.grid)]
        shares = (self.weights[:, :, query, 1:] / np.bincount(self.keys))[..., self.keys]
        return shares.reshape(*shares.shape[:2], *self.grid)

    def localness(self) -> np.ndarray:
        """Of the patches: the class token is neither query nor key, as in the paper's sums over pixels."""
        between = self.weights[:, :, 1:, 1:]
        between = between / between.sum(axis=-1, keepdims=True)
        return np.einsum("bhnk,nk->bh", between[:, :, self.queries], self._near()) / len(self.queries)

    def _near(self):
        """(patches, K): what of a token's attention is on patches in the 3x3 around a patch."""
        row, column = np.divmod(np.arange(len(self.keys)), self.grid[1])
        near = (np.abs(row[:, None] - row) <= 1) & (np.abs(column[:, None] - column) <= 1)
        counts = np.bincount(self.keys)
        return near @ (np.eye(len(counts))[self.keys] / counts)

    def back(self, relevance: np.ndarray) -> np.ndarray:
        """Relevance of the queries (B, Q) as that of the keys (B, K), through attention alone, a mean over heads."""
        return np.einsum("bq,bqk->bk", relevance, self.weights.mean(axis=1))


@dataclass(frozen=True)
class WindowedAttention(LayerAttention):
    """Attention within windows: `weights` (B, rows, columns, heads, pixels, pixels) of the padded, shifted map.

    Attributes:
        shift: pixels by which the map is shifted up and to the left.
    """

    name: str
    weights: np.ndarray
    grid: tuple[int, int]
    shift: int

    def maps(self, place: Place | None = None) -> np.ndarray:
        """Attention of the pixel at `place`, by default in the middle; 0 outside its window, and padding left out."""
        place = tuple(side // 2 for side in self.grid) if place is None else place
        size, arranged = self._side(), [n * self._side() for n in self.weights.shape[1:3]]
        row, column = ((p - self.shift) % n for p, n in zip(place, arranged, strict=True))
        own = self.weights[:, row // size, column // size, :, (row % size) * size + column % size]  # (B, heads, pixels)
        windows = np.zeros((*self.weights.shape[:3], size**2, own.shape[1]))
        windows[:, row // size, column // size] = own.swapaxes(1, 2)
        return np.moveaxis(self._laid_back(windows), -1, 1)

    def localness(self) -> np.ndarray:
        """Neighbours in another window get nothing; padding is neither query nor key."""
        row, column = np.divmod(np.arange(self._side() ** 2), self._side())
        near = (np.abs(row[:, None] - row) <= 1) & (np.abs(column[:, None] - column) <= 1)
        inside = self._cut(np.ones((1, *self.grid)))[0]  # (rows, columns, pixels)
        local = np.einsum("brchpk,pk,rck->brcph", self.weights, near, inside)
        everywhere = np.einsum("brchpk,rck->brcph", self.weights, inside)
        return self._laid_back(local / np.maximum(everywhere, 1e-30)).mean(axis=(1, 2))

    def back(self, relevance: np.ndarray) -> np.ndarray:
        """Relevance of a map's pixels (B, H, W) before the attention, a mean over heads; what padding gets is lost."""
        before = np.einsum("brcp,brcpk->brck", self._cut(relevance), self.weights.mean(axis=3))
        return self._laid_back(before[..., None])[..., 0]

    def _side(self):
        return round(self.weights.shape[-1] ** 0.5)

    def _cut(self, x):
        """A map (B, H, W) as windows (B, rows, columns, pixels), padded with zeros and shifted."""
        size, (rows, columns) = self._side(), self.weights.shape[1:3]
        missing = [(0, n * size - side) for n, side in zip((rows, columns), self.grid, strict=True)]
        x = np.roll(np.pad(x, [(0, 0), *missing]), (-self.shift, -self.shift), axis=(1, 2))
        return x.reshape(-1, rows, size, columns, size).transpose(0, 1, 3, 2, 4).reshape(-1, rows, columns, size**2)

    def _laid_back(self, windows):
        """(B, rows, columns, pixels, n) of windows as a map (B, H, W, n) that lies on the image."""
        batch, rows, columns, _, channels = windows.shape
        size = self._side()
        x = windows.reshape(batch, rows, columns, size, size, channels).transpose(0, 1, 3, 2, 4, 5)
        x = np.roll(x.reshape(batch, rows * size, columns * size, channels), (self.shift, self.shift), axis=(1, 2))
        return x[:, : self.grid[0], : self.grid[1]]


def layer_attention(model: keras.Model, images: np.ndarray, batch_size: int = 8) -> list[LayerAttention]:
    """Attention of every encoder layer of a ViT or Funnel-ViT, or of every block of a Swin, also with ACmix.

    Args:
        model: such a model.
        images: (B, H, W, 3), as the model takes them.
        batch_size: images at a time.

    Raises:
        ValueError: the model has no such layer, or takes images of another size.
    """
    parts = list(_batches(model, images, batch_size))
    return [_joined([part[number] for part in parts]) for number in range(len(parts[0]))]


def _joined(parts):
    changed = vars(parts[0]) | {"weights": np.concatenate([part.weights for part in parts])}
    return type(parts[0])(**changed)


def _batches(model: keras.Model, images: np.ndarray, batch_size: int) -> Iterator[list[LayerAttention]]:
    layers = _attending(model)
    inputs = [t if isinstance(t, list | tuple) else [t] for t in (layer.input for layer in layers)]
    covers = _covers(model, layers) if isinstance(layers[0], TransformerEncoderLayer) else None
    for batch in values(model, [t for tensors in inputs for t in tensors], images, batch_size):
        read, parts = iter(batch), []
        for number, (layer, tensors) in enumerate(zip(layers, inputs, strict=True)):
            states = [next(read) for _ in tensors]
            weights = array(layer.attention_weights(*map(keras.ops.convert_to_tensor, states)))
            if covers is not None:
                parts.append(PatchAttention(layer.name, weights, *covers[number]))
            else:
                grid, size = states[0].shape[1:3], round(weights.shape[-1] ** 0.5)
                attention = layer.mix.attention_path if layer.mixer == "acmix" else layer.mix
                shift = attention.shift_of(*(n * size for n in weights.shape[1:3]))
                parts.append(WindowedAttention(layer.name, weights, grid, shift))
        yield parts


def _attending(model):
    """The layers whose attention is shown."""
    encoder = layers_of(model, TransformerEncoderLayer)
    blocks = [block for block in layers_of(model, SwinBlock) if block.mixer != "convolution"]
    if not encoder and not blocks:
        raise ValueError(f"{model.name} has no attention of patches or windows, as ViT, Funnel-ViT and Swin have")
    return encoder or blocks


def _covers(model, layers):
    """(grid, queries, keys) of each encoder layer, see `PatchAttention`."""
    (embedding,) = layers_of(model, TokenEmbedding)
    grid = tuple(embedding.input.shape[1:3])
    now = before = np.arange(grid[0] * grid[1])
    covers = []
    for layer in layers_of(model, (FunnelPooling, TransformerEncoderLayer)):
        if isinstance(layer, FunnelPooling):
            before, now = now, _pooled_into(layer)[now]
        else:
            covers.append((grid, now, before if isinstance(layer.input, list | tuple) else now))
    return covers


def _pooled_into(pooling):
    """The token, from 0, that each patch token in front of a pooling becomes part of."""
    (rows, columns), (height, width) = pooling.grid, pooling.window
    row, column = np.divmod(np.arange(rows * columns), columns)
    return row // height * pooled_grid(pooling.grid, pooling.window)[1] + column // width


def localness(model: keras.Model, images: np.ndarray, batch_size: int = 8) -> tuple[dict[str, np.ndarray], list[float]]:
    """Share of each layer's attention inside the 3x3 around the query, per head (Figure 5 of Visual Transformers).

    R = the mean over images and queries of P / T, where P is the attention to the 3x3 patches around the query's and T
    that to all patches. A pooled token of a Funnel-ViT stands for each of its patches, which share its attention alike.

    Returns:
        Layer's name -> (heads,); and the same of attention that is the same everywhere, for each layer.

    Raises:
        ValueError: as for `layer_attention`.
    """
    totals, uniform = {}, []
    for parts in _batches(model, images, batch_size):
        uniform = [part.uniform_localness() for part in parts]
        for part in parts:
            totals[part.name] = totals.get(part.name, 0) + part.localness().sum(axis=0)
    return {name: total / len(images) for name, total in totals.items()}, uniform


def rollout(model: keras.Model, images: np.ndarray, batch_size: int = 8) -> np.ndarray:
    """What the classifier's token, or the mean before it, has looked at through all layers (attention rollout).

    Each layer passes on half of what it gets by its residual and half by its attention, a mean over heads. MLPs, and
    the convolutions of an ACmix, are left out. Pooling divides what a token gets among those that were pooled into it,
    and Swin's merging of patches does the same.

    Returns:
        (B, rows, columns) over the patches, or over the pixels of Swin's first map, each image's sum is 1.

    Raises:
        ValueError: as for `layer_attention`.
    """
    rolled = []
    for parts in _batches(model, images, batch_size):
        found = (_roll_patches if isinstance(parts[0], PatchAttention) else _roll_windows)(model, parts)
        rolled.append(found / found.sum(axis=(1, 2), keepdims=True))
    return np.concatenate(rolled)


def _roll_patches(model, parts):
    attention = {part.name: part for part in parts}
    batch, _, tokens, _ = parts[-1].weights.shape
    relevance = np.zeros((batch, tokens))
    if layers_of(model, keras.layers.GlobalAveragePooling1D):  # classify="mean"
        relevance[:, 1:] = 1 / (tokens - 1)
    else:
        relevance[:, 0] = 1
    unpooled = 0  # what a layer with pooled queries has taken from the tokens before pooling
    for layer in reversed(layers_of(model, (FunnelPooling, TransformerEncoderLayer))):
        if isinstance(layer, FunnelPooling):
            into = _pooled_into(layer)
            apart = (relevance[:, 1:] / np.bincount(into))[:, into]
            relevance, unpooled = np.concatenate([relevance[:, :1], apart], axis=1) + unpooled, 0
        elif isinstance(layer.input, list | tuple):
            relevance, unpooled = relevance / 2, attention[layer.name].back(relevance) / 2
        else:
            relevance = (relevance + attention[layer.name].back(relevance)) / 2
    return relevance[:, 1:].reshape(batch, *parts[0].grid)


def _roll_windows(model, parts):
    attention = {part.name: part for part in parts}
    relevance = np.ones((len(parts[-1].weights), *parts[-1].grid))
    chain = layers_of(model, (PatchMerging, SwinBlock))
    for number, layer in reversed(list(enumerate(chain))):
        if isinstance(layer, PatchMerging):
            relevance = spread(relevance, attention[chain[number - 1].name].grid)
        else:
            relevance = (relevance + attention[layer.name].back(relevance)) / 2
    return relevance
