"""ViT (Dosovitskiy et al. 2021) and Funnel-ViT, which pools the patch tokens as the layers go deeper.

Sources: https://arxiv.org/abs/2010.11929, "Funnel Vision Transformer for image classification" (Zhang) and
Funnel-Transformer, https://arxiv.org/abs/2006.03236. A ViT is the Funnel-ViT of one block, and where the widths
agree both have the same weights under the same names: a checkpoint of one is a checkpoint of the other.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras

from tfvt import layers
from tfvt.checks import check_choice, check_numbers, plain
from tfvt.layers import drop_path_rates
from tfvt.layers.funnel import Pooling, pooled_grid
from tfvt.layers.initializers import matrix_start, torch_start
from tfvt.layers.transformer import Gelu
from tfvt.models.base import check_features, classifier, image_input
from tfvt.models.options import Head, Options, Pixels, spell_out
from tfvt.registry import register

STARTS = {  # standard deviations of the matrices (None: Glorot's) and of the class token
    "google": {"kernel_stddev": None, "token_stddev": 0.0},
    "deit": {"kernel_stddev": 0.02, "token_stddev": 0.02},
}


@dataclass(frozen=True)
class Block:
    """Encoder layers of one width and one number of tokens.

    Args:
        layers: encoder layers.
        hidden_dim: channels of a token; a dense layer in front of the block changes them.
        mlp_dim: between the two dense layers of an MLP.
        stride: patch tokens pooled into one in front of the block; 1 in the first block.
    """

    layers: int
    hidden_dim: int = 768
    mlp_dim: int = 3072
    stride: int = 1


VARIANTS = {
    "vit_tiny16": {"blocks": (Block(12, 192, 768),)},
    "vit_small16": {"blocks": (Block(12, 384, 1536),)},
    "vit_base16": {"blocks": (Block(12),)},
    "vit_large16": {"blocks": (Block(24, 1024, 4096),)},
    "vit_base32": {"blocks": (Block(12),), "patch_size": 32},
    "funnel_vit_base16_6_6": {"blocks": (Block(6), Block(6, stride=2))},
    "funnel_vit_base16_4_4_4": {"blocks": (Block(4), Block(4, stride=2), Block(4, stride=2))},
    "funnel_vit_base16_6_6_stride4": {"blocks": (Block(6), Block(6, stride=4))},
    "funnel_vit_base16_6_6_4": {"blocks": (Block(6), Block(6, stride=2), Block(4, stride=2))},
    "funnel_vit_base16_6_6_h1024": {"blocks": (Block(6, 1024), Block(6, 1024, stride=2))},
    "funnel_vit_base16_6_6_m4096": {"blocks": (Block(6, mlp_dim=4096), Block(6, mlp_dim=4096, stride=2))},
    "funnel_vit_base16_6_6_4_m1536": {
        "blocks": (Block(6), Block(6, stride=2), Block(4, mlp_dim=1536, stride=2)),
    },
    "funnel_vit_base16_6_6_2_m1536": {
        "blocks": (Block(6), Block(6, stride=2), Block(2, mlp_dim=1536, stride=2)),
    },
    "funnel_vit_base16_m4096_6_6_2_m1536": {
        "blocks": (Block(6, mlp_dim=4096), Block(6, stride=2), Block(2, mlp_dim=1536, stride=2)),
    },
}


@dataclass(frozen=True)
class ViTPixels(Pixels):
    """Pixels 0..255 to -1..1.

    Args:
        pixel_mean, pixel_std: per channel, in pixel units; pixel_mean=None takes normalised floats.
    """

    pixel_mean: tuple[float, ...] | None = (127.5, 127.5, 127.5)
    pixel_std: tuple[float, ...] | None = (127.5, 127.5, 127.5)


@dataclass(frozen=True)
class EncoderOptions(Options):
    """Encoder layers in blocks, pooled in between.

    Args:
        blocks: `Block`s, or dicts of their fields: one is a ViT, more are a Funnel-ViT.
        head_dim: channels of an attention head.
        gelu: "erf", the definition, or "tanh", the approximation that Google's checkpoints are trained with.
        attention_dropout_rate: of the attention weights.
        drop_path_rate: stochastic depth of the last layer; the others rise linearly to it from 0.
        layer_norm_epsilon: of every layer norm.
        pooling: "mean" or "max" of the patch tokens in front of a block.
        pool_over: "sequence" pools neighbours in the row-by-row order (the paper); "grid" pools pairs of rows,
            then pairs of columns, in turns; a stride of 4 pools both.
        pool_query_only: the first layer of a pooled block attends to the states before pooling; False: to the
            pooled ones.
        initialization: "google": matrices start as Glorot's, those of the patches and of the pre-logits as LeCun's,
            the class token at 0 (vit_jax; TensorFlow official models too, except that they compute Glorot for queries,
            keys and values with larger fans). "deit": all matrices and the class token from a normal distribution
            of standard deviation 0.02, the patches' as PyTorch's default (DeiT's code, on timm).
    """

    blocks: tuple[Block, ...]
    head_dim: int = 64
    gelu: Gelu = "erf"
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_epsilon: float = 1e-6
    pooling: Pooling = "mean"
    pool_over: Literal["sequence", "grid"] = "sequence"
    pool_query_only: bool = True
    initialization: Literal[*STARTS] = "google"

    def kernel_stddev(self) -> float | None:
        """The standard deviation of the matrices at the start; None: Glorot's."""
        return STARTS[self.initialization]["kernel_stddev"]


@register(VARIANTS)
@spell_out
def vit(
    *,
    encoder: EncoderOptions,
    head: Head,
    pixels: ViTPixels,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    patch_size: int = 16,
    classify: Literal["token", "mean"] = "token",
    representation_dim: int | None = None,
    zero_init_head: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build a ViT or a Funnel-ViT.

    Args:
        include_top: False returns the embedding (B, C) that the classifier would read.
        features: ("P4",) returns {"P4": map (B, H / 16, W / 16, C)}, no head ("P5" with patches of 32): the normed
            patch tokens of a ViT; those of a Funnel-ViT pass its decoder, which repeats them to full length and adds
            them to the first block's states before the last norm, where the residual stream is.
        dropout_rate: of the embedded patches and after every dense layer of the encoder, except for queries, keys
            and values (ViT paper, Appendix B.1).
        input_shape: (height, width, channels) in pixels, any height and width that `patch_size` divides: the model
            would not see what is left over.
        patch_size: side of a patch in pixels.
        classify: from the class "token", or from the "mean" of the last patch tokens.
        representation_dim: width of a dense layer with tanh in front of the classifier ("pre-logits").
        zero_init_head: the classifier starts at 0, as when Google pre-trains its models from scratch.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    if None in input_shape:
        raise ValueError(f"input_shape={input_shape}: a ViT has position embeddings for one height and width")
    if head.features is not None:
        check_features(head.features, level_names(patch_size))
    inputs, x = image_input(input_shape, minimum=patch_size, pixels=pixels)
    check_patches(input_shape, patch_size)
    grid = (input_shape[0] // patch_size, input_shape[1] // patch_size)
    funnel = FunnelEncoder(replace(encoder, blocks=make_blocks(encoder.blocks)), head.dropout_rate, grid)
    x = embed_patches(x, funnel.options.blocks[0].hidden_dim, patch_size, head.dropout_rate, encoder.initialization)
    x = funnel(x, full_length=head.features is not None)
    x = keras.layers.LayerNormalization(epsilon=encoder.layer_norm_epsilon, name="encoder_norm")(x)
    if head.features is not None:
        maps = keras.layers.Reshape((*grid, x.shape[-1]), name="map")(x[:, 1:])  # without the class token
        return keras.Model(inputs, {head.features[0]: maps}, name=name)
    x = x[:, 0] if classify == "token" else keras.layers.GlobalAveragePooling1D(name="pool")(x[:, 1:])
    if representation_dim is not None:
        start = "lecun_normal" if encoder.initialization == "google" else matrix_start(encoder.kernel_stddev())
        x = keras.layers.Dense(representation_dim, activation="tanh", kernel_initializer=start, name="pre_logits")(x)
    if head.include_top:
        start = "zeros" if zero_init_head else matrix_start(encoder.kernel_stddev())
        head = replace(head, dropout_rate=0.0)  # the encoder has dropped out
        x = classifier(x, head, {"kernel_initializer": start})
    return keras.Model(inputs, x, name=name)


def make_blocks(blocks: Iterable[Any]) -> tuple[Block, ...]:
    """`blocks` as a tuple of `Block`; recipes have them as dicts, the command line as namespaces."""
    made = []
    for number, block in enumerate(blocks):
        try:
            fields = block if isinstance(block, dict) else vars(block)
            made.append(Block(**{name: plain(value) for name, value in fields.items()}))
        except TypeError as error:
            raise ValueError(
                f"blocks[{number}]={block}: expected a Block or a dict of layers, hidden_dim, mlp_dim, stride ({error})"
            ) from error
    return tuple(made)


def check_patches(input_shape: tuple[int, int, int], patch_size: int) -> None:
    """Raise a ValueError that names the nearest sizes that fit if patches do not cover the whole image."""
    for side, pixels in zip(("height", "width"), input_shape, strict=False):
        if pixels % patch_size:
            below = pixels - pixels % patch_size
            raise ValueError(
                f"input_shape={input_shape}: patches of {patch_size}x{patch_size} do not divide the {side} {pixels}: "
                f"take {below} or {below + patch_size}"
            )


def level_names(patch_size: int) -> tuple[str]:
    """The pyramid level whose stride is the patch size: P4 for 16."""
    level = math.log2(patch_size)
    if not level.is_integer():
        raise ValueError(f"patch_size={patch_size}: features are named by strides that are powers of 2")
    return (f"P{level:.0f}",)


def embed_patches(
    x: keras.KerasTensor, hidden_dim: int, patch_size: int, dropout_rate: float, initialization: str
) -> keras.KerasTensor:
    """A class token, then the patches through one linear layer, with positions: (B, 1 + N, hidden_dim)."""
    start = {"kernel_initializer": "lecun_normal"}
    if initialization == "deit":
        start = torch_start(patch_size**2 * x.shape[-1])
    x = keras.layers.Conv2D(hidden_dim, patch_size, strides=patch_size, name="patch_embedding", **start)(x)
    x = layers.TokenEmbedding(STARTS[initialization]["token_stddev"], name="embedding")(x)
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name="embedding_dropout")(x)
    return x


@dataclass(frozen=True)
class FunnelEncoder:
    """Encoder layers in blocks, pooled in between. Called on tokens (B, 1 + rows * columns, C), gives the last states.

    With `full_length`, these are repeated to the first block's length and added to its states.
    """

    options: EncoderOptions
    dropout_rate: float
    grid: tuple[int, int]

    def __post_init__(self):
        blocks, head_dim = self.options.blocks, self.options.head_dim
        if not blocks:
            raise ValueError("blocks=(): expected at least one block")
        for number, block in enumerate(blocks):
            check_numbers(vars(block), f"blocks[{number}].")
            if block.hidden_dim % head_dim:
                raise ValueError(
                    f"blocks[{number}].hidden_dim={block.hidden_dim}: expected a multiple of head_dim={head_dim}"
                )
        if blocks[0].stride != 1:
            raise ValueError(f"blocks[0].stride={blocks[0].stride}: expected 1, pooling is between blocks")

    def windows(self) -> list[tuple[int, int]]:
        """(rows, columns) pooled into one token in front of each block."""
        if self.options.pool_over == "sequence":
            return [(1, block.stride) for block in self.options.blocks]
        windows, halves = [], 0
        for number, block in enumerate(self.options.blocks):
            if block.stride == 2:
                windows.append(((2, 1), (1, 2))[halves % 2])
                halves += 1
            else:
                check_choice(f"blocks[{number}].stride (pooled over the grid)", block.stride, (1, 2, 4))
                windows.append((2, 2) if block.stride == 4 else (1, 1))
        return windows

    def __call__(self, x, full_length=False):
        num_layers = sum(block.layers for block in self.options.blocks)
        rates = iter(drop_path_rates(self.options.drop_path_rate, num_layers, first_drops=False))
        # Over the sequence is over a grid of one row.
        full_grid = grid = self.grid if self.options.pool_over == "grid" else (1, self.grid[0] * self.grid[1])
        total_window, first_states, index = (1, 1), None, 0
        for number, (block, window) in enumerate(zip(self.options.blocks, self.windows(), strict=True), start=1):
            if x.shape[-1] != block.hidden_dim:
                start = matrix_start(self.options.kernel_stddev())
                x = keras.layers.Dense(block.hidden_dim, kernel_initializer=start, name=f"block{number}_projection")(x)
            context = ()
            if block.stride > 1:
                unpooled = x
                x = layers.FunnelPooling(grid, window, self.options.pooling, name=f"block{number}_pooling")(x)
                grid = pooled_grid(grid, window)
                total_window = (total_window[0] * window[0], total_window[1] * window[1])
                context = (unpooled,) if self.options.pool_query_only else ()
            for _ in range(block.layers):
                index += 1
                x = self.layer(block, next(rates), f"encoder_layer{index}")(x, *context)
                context = ()
            first_states = x if first_states is None else first_states
        if full_length and len(self.options.blocks) > 1:
            x = self.decode(x, first_states, full_grid, total_window)
        return x

    def layer(self, block: Block, drop_path_rate: float, name: str) -> layers.TransformerEncoderLayer:
        return layers.TransformerEncoderLayer(
            num_heads=block.hidden_dim // self.options.head_dim,
            mlp_dim=block.mlp_dim,
            gelu=self.options.gelu,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.options.attention_dropout_rate,
            drop_path_rate=drop_path_rate,
            layer_norm_epsilon=self.options.layer_norm_epsilon,
            kernel_stddev=self.options.kernel_stddev(),
            name=name,
        )

    def decode(
        self,
        x: keras.KerasTensor,
        first_states: keras.KerasTensor,
        full_grid: tuple[int, int],
        total_window: tuple[int, int],
    ) -> keras.KerasTensor:
        """Funnel-Transformer's decoder (its eq. 4): repeated last states plus those of the first block."""
        if x.shape[-1] != first_states.shape[-1]:
            raise ValueError(
                f"features add the states of the first block ({first_states.shape[-1]} channels) and of the last "
                f"({x.shape[-1]}): expected blocks of one hidden_dim"
            )
        x = layers.FunnelUpsampling(full_grid, total_window, name="upsampling")(x)
        return keras.layers.Add(name="full_length")([x, first_states])
