"""Swin Transformer (Liu et al. 2021), and with ACmix or a convolution in place of its attention.

Sources: https://arxiv.org/abs/2103.14030, section 3 and Table 7; ACmix (Pan et al., CVPR 2022), Figure 4 and Table 6.
Weights start as in the authors' models/swin_transformer.py (github.com/microsoft/Swin-Transformer): dense layers and
bias tables normal with standard deviation 0.02, convolutions as PyTorch's, those of ACmix too.
"""

from dataclasses import dataclass

import keras

from tfvt.layers import PatchEmbedding, PatchMerging, SwinBlock, drop_path_rates
from tfvt.layers.initializers import Start, normal_start
from tfvt.layers.swin import Mixer
from tfvt.models.base import image_input, pyramid_model
from tfvt.models.options import Head, Mixing, Pixels, spell_out
from tfvt.registry import register

VARIANTS = {
    "swin_tiny": {"depths": (2, 2, 6, 2)},
    "swin_small": {"depths": (2, 2, 18, 2)},
    "swin_base": {"depths": (2, 2, 18, 2), "width": 128},
    "acmix_swin_tiny": {"depths": (2, 2, 6, 2), "mixer": "acmix"},
    "acmix_swin_small": {"depths": (2, 2, 18, 2), "mixer": "acmix"},
    "conv_swin_tiny": {"depths": (2, 2, 6, 2), "mixer": "convolution"},
}
PATCH_SIZE = 4


@register(VARIANTS)
@spell_out
def swin(
    *,
    depths: tuple[int, ...],
    mixer: Mixer = "attention",
    acmix: Mixing,
    head: Head,
    pixels: Pixels,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    drop_path_rate: float = 0.0,
    layer_norm_epsilon: float = 1e-5,
    width: int = 96,
    head_dim: int = 32,
    window_size: int = 7,
    mlp_ratio: int = 4,
    name: str | None = None,
) -> keras.Model:
    """Build a Swin Transformer.

    Args:
        depths: blocks in each stage; every second one has its windows shifted by half a window.
        mixer: of every block: "attention", "acmix" or "convolution", see `tfvt.layers.SwinBlock`.
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P2" to "P5" (strides 4 to 32), as
            the stages give them, without the last norm.
        dropout_rate: after the patch embedding, in every block and before the classifier.
        input_shape: (height, width, channels) in pixels, any size: patches, windows and pairs of pixels are padded.
        drop_path_rate: stochastic depth of the last block; the others rise linearly to it from 0.
        layer_norm_epsilon: of every layer norm.
        width: channels of the first stage; each later stage doubles them.
        head_dim: channels of an attention head.
        window_size: side of a window, in pixels of its map.
        mlp_ratio: channels inside the MLPs, in those of their stage.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    trunk = SwinTrunk(
        depths=depths,
        width=width,
        head_dim=head_dim,
        dropout_rate=head.dropout_rate,
        drop_path_rate=drop_path_rate,
        layer_norm_epsilon=layer_norm_epsilon,
        block_options={"mixer": mixer, "window_size": window_size, "mlp_ratio": mlp_ratio, **vars(acmix)},
    )
    inputs, x = image_input(input_shape, minimum=PATCH_SIZE, pixels=pixels)
    return pyramid_model(inputs, x, trunk, head, name)


@dataclass(frozen=True)
class SwinTrunk:
    """Patch embedding and stages. Called on a normalised map (B, H, W, C), gives a dict level -> map."""

    depths: tuple[int, ...]
    width: int
    head_dim: int
    dropout_rate: float
    drop_path_rate: float
    layer_norm_epsilon: float
    block_options: dict

    def __post_init__(self):
        if self.width % self.head_dim:
            raise ValueError(f"width={self.width}: expected a multiple of head_dim={self.head_dim}")
        if not self.depths:
            raise ValueError(f"depths={self.depths}: expected at least one stage")

    def level_names(self) -> list[str]:
        """P2, P3, ...: strides 4, 8, ..."""
        return [f"P{2 + stage}" for stage in range(len(self.depths))]

    def __call__(self, x):
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths), first_drops=False))
        x = PatchEmbedding(self.width, PATCH_SIZE, self.layer_norm_epsilon, name="patch_embedding")(x)
        if self.dropout_rate:
            x = keras.layers.Dropout(self.dropout_rate, name="embedding_dropout")(x)
        levels = {}
        for stage, (level, depth) in enumerate(zip(self.level_names(), self.depths, strict=True), start=1):
            if stage > 1:
                x = PatchMerging(self.layer_norm_epsilon, name=f"stage{stage}_merging")(x)
            for block in range(1, depth + 1):
                x = self.block(x.shape[-1], block, next(rates), f"stage{stage}_block{block}")(x)
            levels[level] = x
        return levels

    def block(self, channels: int, number: int, drop_path_rate: float, name: str) -> SwinBlock:
        return SwinBlock(
            num_heads=channels // self.head_dim,
            shift_size=0 if number % 2 else self.block_options["window_size"] // 2,
            dropout_rate=self.dropout_rate,
            drop_path_rate=drop_path_rate,
            layer_norm_epsilon=self.layer_norm_epsilon,
            name=name,
            **self.block_options,
        )

    def embed(self, levels: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
        """The mean over the last map, normed."""
        x = levels[self.level_names()[-1]]
        x = keras.layers.LayerNormalization(epsilon=self.layer_norm_epsilon, name="norm")(x)
        return keras.layers.GlobalAveragePooling2D(name="pool")(x)

    def head_start(self, channels: int) -> Start:
        """The authors'."""
        return normal_start()
