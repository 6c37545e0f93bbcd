"""SAN, the self-attention network with patchwise attention (Zhao, Jia and Koltun 2020), and with ACmix.

Sources: https://arxiv.org/abs/2004.13621, section 4 and Table 1; ACmix (Pan et al., CVPR 2022), Figure 4, whose SAN was
never released: the wiring of its convolution path is the one whose counts fit the paper's. Weights start as PyTorch's,
which the authors' model/san.py (github.com/hszhao/SAN) leaves as they are.
"""

from dataclasses import dataclass
from typing import Literal

import keras

from tfvt.checks import check_choice
from tfvt.layers import ACmix, DropPath, SANAttention, drop_path_rates
from tfvt.layers.acmix import check_acmix_options
from tfvt.layers.initializers import torch_start
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD, image_input, pyramid_model
from tfvt.models.resnet import batch_norm_options
from tfvt.registry import register

_DEPTHS = {10: (2, 1, 2, 4, 1), 15: (3, 2, 3, 5, 2), 19: (3, 3, 4, 6, 3)}
VARIANTS = {f"san{number}": {"depths": depths} for number, depths in _DEPTHS.items()} | {
    f"acmix_san{number}": {"depths": depths, "mixer": "acmix"} for number, depths in _DEPTHS.items()
}
SHARE = 8  # value channels with one set of weights


@register(VARIANTS)
def san(
    *,
    depths: tuple[int, ...],
    mixer: Literal["attention", "acmix"] = "attention",
    num_classes: int = 1000,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    include_top: bool = True,
    features: tuple[str, ...] | None = None,
    pixel_mean: tuple[float, ...] | None = IMAGENET_MEAN,
    pixel_std: tuple[float, ...] | None = IMAGENET_STD,
    dropout_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    batch_norm_epsilon: float = 1e-5,
    batch_norm_momentum: float = 0.9,
    synchronized_batch_norm: bool = False,
    width: int = 64,
    first_kernel_size: int = 3,
    kernel_size: int = 7,
    shift: Literal["learned", "random", "fixed", "tensor"] = "learned",
    combine: Literal["both", "sum", "alpha", "complement", "attention", "convolution"] = "both",
    name: str | None = None,
) -> keras.Model:
    """Build a SAN.

    Args:
        depths: blocks in each stage.
        mixer: of every block: "attention", see `tfvt.layers.SANAttention`, or "acmix".
        num_classes: width of the classifier.
        input_shape: (height, width, channels) in pixels. Attention reflects every map, so with windows of 7x7 the last
            may not be smaller than 4x4: at least 128 pixels a side with five stages. As in the authors' network, the
            model does not see what the pooling leaves over at the right and the bottom: nothing at multiples of 32.
        include_top: False returns the pooled embedding (B, C).
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P1" to "P5" (strides 2 to 32).
        pixel_mean, pixel_std: per channel, in pixel units; pixel_mean=None takes normalised floats.
        dropout_rate: on the embedding, before the classifier.
        drop_path_rate: stochastic depth of the last block; the others rise linearly to it, see `drop_path_rates`.
        batch_norm_epsilon, batch_norm_momentum: of every batch norm.
        synchronized_batch_norm: statistics over all replicas (TensorFlow's distribution strategies only).
        width: channels of the first stage, a multiple of 32; the second has 4 times as many, each later one doubles
            them.
        first_kernel_size, kernel_size: side of the neighbourhood in the first stage and in the others, odd.
        shift, combine: of every ACmix, see `tfvt.layers.ACmix`.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    trunk = SANTrunk(
        depths=depths,
        mixer=mixer,
        width=width,
        kernel_sizes=(first_kernel_size, *[kernel_size] * (len(depths) - 1)),
        drop_path_rates=tuple(drop_path_rates(drop_path_rate, sum(depths), first_drops=True)),
        norm_options=batch_norm_options(batch_norm_epsilon, batch_norm_momentum, synchronized_batch_norm),
        acmix_options={"shift": shift, "combine": combine},
    )
    minimum = (trunk.kernel_sizes[-1] // 2 + 1) * 2 ** len(depths)
    inputs, x = image_input(input_shape, minimum=minimum, pixel_mean=pixel_mean, pixel_std=pixel_std)
    return pyramid_model(inputs, x, trunk, features, include_top, num_classes, dropout_rate, name)


@dataclass(frozen=True)
class SANTrunk:
    """Stem and stages. Called on a normalised map (B, H, W, C), gives a dict level -> map."""

    depths: tuple[int, ...]
    mixer: str
    width: int
    kernel_sizes: tuple[int, ...]
    drop_path_rates: tuple[float, ...]
    norm_options: dict
    acmix_options: dict

    def __post_init__(self):
        check_choice("mixer", self.mixer, ("attention", "acmix"))
        check_acmix_options(self.mixer, **self.acmix_options)
        if not self.depths:
            raise ValueError(f"depths={self.depths}: expected at least one stage")
        if self.width % (4 * SHARE):
            raise ValueError(f"width={self.width}: expected a multiple of {4 * SHARE}")

    def level_names(self):
        """P1, P2, ...: strides 2, 4, ..."""
        return [f"P{1 + stage}" for stage in range(len(self.depths))]

    def __call__(self, x):
        x = self.conv(x, self.width, "stem_conv", use_bias=False)
        x = self.norm_relu(x, "stem")
        levels, rates = {}, iter(self.drop_path_rates)
        for stage, (level, depth) in enumerate(zip(self.level_names(), self.depths, strict=True)):
            channels = self.width * (1 if stage == 0 else 2 ** (stage + 1))
            x = keras.layers.MaxPooling2D(2, name=f"stage{stage + 1}_pool")(x)
            x = self.conv(x, channels, f"stage{stage + 1}_transition", use_bias=False)
            for block in range(depth):
                name = f"stage{stage + 1}_block{block + 1}"
                x = self.block(x, channels, self.kernel_sizes[stage], next(rates), name)
            x = levels[level] = self.norm_relu(x, f"stage{stage + 1}")
        return levels

    def block(self, x, channels, kernel_size, drop_path_rate, name):
        """Batch norm and ReLU, attention to a quarter of the channels, batch norm and ReLU, 1x1, residual."""
        y = self.mix(self.norm_relu(x, f"{name}_1"), channels // 4, kernel_size, f"{name}_mixer")
        y = self.conv(self.norm_relu(y, f"{name}_2"), channels, f"{name}_conv")
        if drop_path_rate:
            y = DropPath(drop_path_rate, name=f"{name}_drop_path")(y)
        return keras.layers.Add(name=f"{name}_add")([x, y])

    def mix(self, x, filters, kernel_size, name):
        if self.mixer == "attention":
            return SANAttention(filters, SHARE, kernel_size, self.norm_options, name=name)(x)
        return ACmix(
            filters,
            SHARE,
            attention="patchwise",
            attention_kernel_size=kernel_size,
            batch_norm_options=self.norm_options,
            name=name,
            **self.acmix_options,
        )(x)

    def conv(self, x, channels, name, use_bias=True):
        return keras.layers.Conv2D(channels, 1, use_bias=use_bias, name=name, **torch_start(x.shape[-1]))(x)

    def norm_relu(self, x, name):
        x = keras.layers.BatchNormalization(name=f"{name}_norm", **self.norm_options)(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x)

    def embed(self, levels):
        """The mean over the last map."""
        return keras.layers.GlobalAveragePooling2D(name="pool")(levels[self.level_names()[-1]])

    def head_start(self, channels):
        """PyTorch's default, as the authors leave it."""
        return torch_start(channels)
