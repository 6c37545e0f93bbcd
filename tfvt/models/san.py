"""SAN, the self-attention network with patchwise attention (Zhao, Jia and Koltun 2020), and with ACmix.

Sources: https://arxiv.org/abs/2004.13621, section 4 and Table 1; ACmix (Pan et al., CVPR 2022), Figure 4, whose SAN was
never released: the wiring of its convolution path is the one whose counts fit the paper's. Weights start as PyTorch's,
which the authors' model/san.py (github.com/hszhao/SAN) leaves as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import keras

from tfvt.layers import ACmix, BatchNormalization, DropPath, SANAttention, drop_path_rates
from tfvt.layers.acmix import check_acmix_options
from tfvt.layers.initializers import Start, torch_start
from tfvt.models.base import image_input, pyramid_model
from tfvt.models.options import BatchNorm, Head, Mixing, Options, Pixels, spell_out
from tfvt.registry import register

_DEPTHS = {10: (2, 1, 2, 4, 1), 15: (3, 2, 3, 5, 2), 19: (3, 3, 4, 6, 3)}
VARIANTS = {f"san{number}": {"depths": depths} for number, depths in _DEPTHS.items()} | {
    f"acmix_san{number}": {"depths": depths, "mixer": "acmix"} for number, depths in _DEPTHS.items()
}
SHARE = 8  # value channels with one set of weights


@dataclass(frozen=True)
class SANOptions(Options):
    """Stem and stages of a SAN.

    Args:
        depths: blocks in each stage.
        mixer: of every block: "attention", see `tfvt.layers.SANAttention`, or "acmix".
        width: channels of the first stage, a multiple of 32; the second has 4 times as many, each later one doubles
            them.
        first_kernel_size, kernel_size: side of the neighbourhood in the first stage and in the others, odd.
    """

    depths: tuple[int, ...]
    mixer: Literal["attention", "acmix"] = "attention"
    width: int = 64
    first_kernel_size: int = 3
    kernel_size: int = 7


@register(VARIANTS)
@spell_out
def san(
    *,
    trunk: SANOptions,
    acmix: Mixing,
    head: Head,
    pixels: Pixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    drop_path_rate: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Build a SAN.

    Args:
        input_shape: (height, width, channels) in pixels. Attention reflects every map, so with windows of 7x7 the last
            may not be smaller than 4x4: at least 128 pixels a side with five stages. As in the authors' network, the
            model does not see what the pooling leaves over at the right and the bottom: nothing at multiples of 32.
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P1" to "P5" (strides 2 to 32).
        drop_path_rate: stochastic depth of the last block; the others rise linearly to it, see `drop_path_rates`.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    rates = drop_path_rates(drop_path_rate, sum(trunk.depths), first_drops=True)
    stages = SANTrunk(trunk, acmix, batch_norm, rates)
    minimum = (stages.kernel_sizes()[-1] // 2 + 1) * 2 ** len(trunk.depths)
    inputs, x = image_input(input_shape, minimum=minimum, pixels=pixels)
    return pyramid_model(inputs, x, stages, head, name)


@dataclass(frozen=True)
class SANTrunk:
    """Stem and stages. Called on a normalised map (B, H, W, C), gives a dict level -> map."""

    options: SANOptions
    acmix: Mixing
    batch_norm: BatchNorm
    drop_path_rates: Sequence[float]

    def __post_init__(self):
        check_acmix_options(self.options.mixer, **vars(self.acmix))
        if not self.options.depths:
            raise ValueError(f"depths={self.options.depths}: expected at least one stage")
        if self.options.width % (4 * SHARE):
            raise ValueError(f"width={self.options.width}: expected a multiple of {4 * SHARE}")

    def kernel_sizes(self) -> list[int]:
        """The side of the neighbourhood in every stage."""
        return [self.options.first_kernel_size] + [self.options.kernel_size] * (len(self.options.depths) - 1)

    def level_names(self) -> list[str]:
        """P1, P2, ...: strides 2, 4, ..."""
        return [f"P{1 + stage}" for stage in range(len(self.options.depths))]

    def __call__(self, x):
        x = self.conv(x, self.options.width, "stem_conv", use_bias=False)
        x = self.norm_relu(x, "stem")
        levels, rates = {}, iter(self.drop_path_rates)
        for stage, (level, depth) in enumerate(zip(self.level_names(), self.options.depths, strict=True)):
            channels = self.options.width * (1 if stage == 0 else 2 ** (stage + 1))
            x = keras.layers.MaxPooling2D(2, name=f"stage{stage + 1}_pool")(x)
            x = self.conv(x, channels, f"stage{stage + 1}_transition", use_bias=False)
            for block in range(depth):
                name = f"stage{stage + 1}_block{block + 1}"
                x = self.block(x, channels, self.kernel_sizes()[stage], next(rates), name)
            x = levels[level] = self.norm_relu(x, f"stage{stage + 1}")
        return levels

    def block(
        self, x: keras.KerasTensor, channels: int, kernel_size: int, drop_path_rate: float, name: str
    ) -> keras.KerasTensor:
        """Batch norm and ReLU, attention to a quarter of the channels, batch norm and ReLU, 1x1, residual."""
        y = self.mix(self.norm_relu(x, f"{name}_1"), channels // 4, kernel_size, f"{name}_mixer")
        y = self.conv(self.norm_relu(y, f"{name}_2"), channels, f"{name}_conv")
        if drop_path_rate:
            y = DropPath(drop_path_rate, name=f"{name}_drop_path")(y)
        return keras.layers.Add(name=f"{name}_add")([x, y])

    def mix(self, x: keras.KerasTensor, filters: int, kernel_size: int, name: str) -> keras.KerasTensor:
        if self.options.mixer == "attention":
            return SANAttention(filters, SHARE, kernel_size, self.batch_norm.keras_arguments(), name=name)(x)
        return ACmix(
            filters,
            SHARE,
            attention="patchwise",
            attention_kernel_size=kernel_size,
            batch_norm_options=self.batch_norm.keras_arguments(),
            name=name,
            **vars(self.acmix),
        )(x)

    def conv(self, x: keras.KerasTensor, channels: int, name: str, use_bias: bool = True) -> keras.KerasTensor:
        return keras.layers.Conv2D(channels, 1, use_bias=use_bias, name=name, **torch_start(x.shape[-1]))(x)

    def norm_relu(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = BatchNormalization(name=f"{name}_norm", **self.batch_norm.keras_arguments())(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x)

    def embed(self, levels: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
        """The mean over the last map."""
        return keras.layers.GlobalAveragePooling2D(name="pool")(levels[self.level_names()[-1]])

    def head_start(self, channels: int) -> Start:
        """PyTorch's default, as the authors leave it."""
        return torch_start(channels)
