"""Where visual tokens look: attention of the tokenizers over the image (Visual Transformers, ICCV 2021, section 6)."""

from dataclasses import dataclass

import keras
import numpy as np

from tfvt.analysis.intermediate import array, cell_shares, layers_of, spread, values
from tfvt.layers import Tokenizer, TokenTransformer


@dataclass(frozen=True)
class TokenMaps:
    """Where the tokens of one tokenizer look.

    Attributes:
        attention: A, (B, h, w, L), over the map that the tokenizer reads; each token's sums to 1.
        mixed: A-hat[l] = sum over l' of W[l, l'] A[l'], (B, h', w', L), with the attention W, a mean over heads, of the
            token transformer that reads these tokens: what a token sees through those that it attends to. Of a
            transformer that reads several levels (VT-FPN), l' runs over the tokens of all levels, and h' x w' is the
            finest map. None where no transformer reads the tokens.
    """

    attention: np.ndarray
    mixed: np.ndarray | None


def token_maps(model: keras.Model, images: np.ndarray, batch_size: int = 32) -> dict[str, TokenMaps]:
    """Attention of every token of every tokenizer, and as the token transformer mixes it (Figure 6, rows 1 and 2).

    Tokens that a recurrent tokenizer passes on as they are look at no pixel in this module: they are missing in
    `attention`, and `mixed` sums to less than 1 by the weight that they get.

    Args:
        model: a VT-ResNet, a VT-FPN, or another functional model with tokenizers of tfvt.
        images: (B, H, W, 3), as the model takes them.
        batch_size: images at a time.

    Returns:
        Tokenizer's layer name -> its maps, in the order of the modules, or of the levels from fine to coarse.

    Raises:
        ValueError: the model has no tokenizer, or takes images of another size.
    """
    tokenizers = layers_of(model, Tokenizer)
    if not tokenizers:
        raise ValueError(f"{model.name} has no tokenizer")
    sources = _sources(model, tokenizers)
    tensors = [layer.output[1] for layer in tokenizers] + [layer.input for layer in sources]
    parts = []
    for batch in values(model, tensors, images, batch_size):
        attention = dict(zip((layer.name for layer in tokenizers), batch, strict=False))
        mixed = {}
        for (relation, names), tokens in zip(sources.items(), batch[len(tokenizers) :], strict=True):
            weights = array(relation.attention_weights(keras.ops.convert_to_tensor(tokens))).mean(axis=1)
            mixed |= _mixed({name: attention[name] for name in names}, weights)
        parts.append({name: (maps, mixed.get(name)) for name, maps in attention.items()})
    return {
        name: TokenMaps(*(None if part[0] is None else np.concatenate(part) for part in zip(*pairs, strict=True)))
        for name, pairs in ((layer.name, [part[layer.name] for part in parts]) for layer in tokenizers)
    }


def token_attention(model: keras.Model, images: np.ndarray, batch_size: int = 32) -> dict[str, np.ndarray]:
    """The `attention` of `token_maps` alone: tokenizer's layer name -> (B, h, w, L)."""
    return {name: maps.attention for name, maps in token_maps(model, images, batch_size).items()}


def _sources(model, tokenizers):
    """Token transformer -> names of the tokenizers whose tokens it reads, alone or side by side."""
    names = {id(layer.output[0]): layer.name for layer in tokenizers}
    joined = {id(layer.output): layer.input for layer in layers_of(model, keras.layers.Concatenate)}
    sources = {}
    for relation in layers_of(model, TokenTransformer):
        inputs = [names.get(id(t)) for t in joined.get(id(relation.input), [relation.input])]
        if None not in inputs:
            sources[relation] = inputs
    return sources


def _mixed(attention, weights):
    """A-hat of the tokenizers that one transformer with `weights` (B, L, L) reads, by their names."""
    size = max(maps.shape[1:3] for maps in attention.values())
    fine = [spread(maps, size) for maps in attention.values()]
    if len(fine) == 1 and fine[0].shape[-1] < weights.shape[-1]:  # the others passed as they were
        weights = weights[..., : fine[0].shape[-1]]
    mixed = np.einsum("bhwk,blk->bhwl", np.concatenate(fine, axis=-1), weights)
    ends = np.cumsum([maps.shape[-1] for maps in fine])[:-1]
    return dict(zip(attention, np.split(mixed, ends, axis=-1), strict=True))


def attention_entropy(attention: np.ndarray) -> np.ndarray:
    """E = -sum of A ln A over the pixels of a map, in nats: 0 for one pixel, `uniform_entropy` for all alike.

    The logarithm is the natural one: the paper's 12.318 of a convolution is ln(473 x 473).

    Args:
        attention: (B, h, w, L); each token's is divided by its sum.

    Returns:
        (B, L).
    """
    attention = np.asarray(attention, dtype="float64")
    attention = attention / attention.sum(axis=(1, 2), keepdims=True)
    return -(attention * np.log(np.maximum(attention, 1e-300))).sum(axis=(1, 2))


def uniform_entropy(height: int, width: int) -> float:
    """Entropy of the attention that is the same on all pixels of a map: ln(height x width), in nats."""
    return float(np.log(height * width))


def foreground_attention(attention: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Share of each token's attention that falls on the foreground.

    A pixel of the attention map counts by the share of its area that is foreground.

    Args:
        attention: (B, h, w, L), each token's sums to 1.
        foreground: (B, H, W), share of foreground in each pixel, 0..1, at any size.

    Returns:
        (B, L). A token that looks everywhere equally gets the share of the area that is foreground.

    Raises:
        ValueError: another number of images.
    """
    attention = np.asarray(attention)
    if len(foreground) != len(attention):
        raise ValueError(f"foreground {foreground.shape} does not match attention {attention.shape}")
    return np.einsum("bhwl,bhw->bl", attention, cell_shares(foreground, attention.shape[1:3]))


@dataclass(frozen=True)
class ForegroundSums:
    """Attention on foreground and background, added up over images; `+` adds those of more images.

    Attributes:
        images: how many.
        foreground, background: attention on them, (L,) each.
        foreground_area, background_area: their areas, in images.
    """

    images: int
    foreground: np.ndarray
    background: np.ndarray
    foreground_area: float
    background_area: float

    def __add__(self, other: "ForegroundSums") -> "ForegroundSums":
        return ForegroundSums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def ratio(self) -> np.ndarray:
        """Attention of a foreground pixel over that of a background pixel, (L,): 1.283 is the paper's + 28.3 %.

        NaN where the images have no foreground or no background.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.foreground / self.foreground_area) / (self.background / np.float64(self.background_area))

    @property
    def mean_ratio(self) -> float:
        """The same of the mean over all tokens' attention."""
        with np.errstate(divide="ignore", invalid="ignore"):
            foreground, background = self.foreground.sum() / self.foreground_area, self.background.sum()
            return float(foreground / (background / np.float64(self.background_area)))


def foreground_sums(
    attention: np.ndarray, foreground: np.ndarray, background: np.ndarray, size: tuple[int, int] | None = None
) -> ForegroundSums:
    """Attention on the pixels of two areas, which need not cover the image: void pixels are in neither.

    Areas count in cells of the attention map, so that attention that is the same everywhere has the ratio 1.

    Args:
        attention: (B, h, w, L).
        foreground, background: (B, H, W) of truth or 0..1, at any size.
        size: (height, width) of the images that the model saw; default H and W.
    """
    grid, sums = attention.shape[1:3], []
    for area in (foreground, background):
        shares = cell_shares(area, grid, size)
        sums.append((np.einsum("bhwl,bhw->l", attention, shares), np.float64(shares.mean(axis=(1, 2)).sum())))
    (on_foreground, area), (on_background, other_area) = sums
    return ForegroundSums(len(attention), on_foreground, on_background, area, other_area)
