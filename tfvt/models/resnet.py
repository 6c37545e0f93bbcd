"""ResNet (He et al. 2016), version 1.5: the stride of a bottleneck is in its 3x3 convolution.

Source: https://arxiv.org/abs/1512.03385, Table 1; padding, initialisation and batch norm as in torchvision,
so that its trained weights load. ResNet-26 and -38 are the shorter bottleneck networks of the SAN and ACmix
papers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import keras

from tfvt.layers import ACmix, BatchNormalization, DropPath, drop_path_rates
from tfvt.layers.initializers import Start, torch_start
from tfvt.models.base import image_input, pyramid_model
from tfvt.models.options import BatchNorm, Head, Options, Pixels, spell_out
from tfvt.registry import register

VARIANTS = {
    "resnet18": {"block": "basic", "depths": (2, 2, 2, 2)},
    "resnet26": {"block": "bottleneck", "depths": (1, 2, 4, 1)},
    "resnet34": {"block": "basic", "depths": (3, 4, 6, 3)},
    "resnet38": {"block": "bottleneck", "depths": (2, 3, 5, 2)},
    "resnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "depths": (3, 4, 23, 3)},
}


@dataclass(frozen=True)
class ResNetOptions(Options):
    """Stem and stages of a ResNet.

    Args:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1 with 4 times the channels).
        depths: residual blocks in each stage.
        width: channels of the stem and the first stage; each later stage doubles them.
        stem_pool: False leaves out the max pool, so that every stage has half the stride (for small images).
        stride_in_1x1: stride of a bottleneck in its first 1x1 convolution (the original form).
        zero_init_last_norm: the last scale of every block starts at 0, so that the block starts as identity.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    stem_pool: bool = True
    stride_in_1x1: bool = False
    zero_init_last_norm: bool = False


@register(VARIANTS)
@spell_out
def resnet(
    *,
    trunk: ResNetOptions,
    head: Head,
    pixels: Pixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    drop_path_rate: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Build a ResNet.

    Args:
        input_shape: (height, width, channels) in pixels, at least the stride of the last stage (32).
        drop_path_rate: stochastic depth of the last block; the others rise linearly to it, see `drop_path_rates`.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    rates = drop_path_rates(drop_path_rate, sum(trunk.depths), first_drops=True)
    stages = ResNetTrunk(trunk, batch_norm, rates)
    inputs, x = image_input(input_shape, minimum=stages.stride(), pixels=pixels)
    return pyramid_model(inputs, x, stages, head, name)


@dataclass(frozen=True)
class ResNetTrunk:
    """Stem and stages. Called on a normalised map (B, H, W, C), gives a dict level -> map.

    `options.depths` may have fewer than four stages; `drop_path_rates` has one rate per block, in order. With
    `acmix_options`, an ACmix of these arguments replaces every 3x3 convolution of a bottleneck.
    """

    options: ResNetOptions
    batch_norm: BatchNorm
    drop_path_rates: Sequence[float]
    acmix_options: dict | None = None

    def __post_init__(self):
        if not self.options.depths:
            raise ValueError(f"depths={self.options.depths}: expected at least one stage")

    def level_names(self) -> list[str]:
        """The levels of the stages, named by their stride 2**n: P2, P3, ... with a max pool in the stem."""
        first = 2 if self.options.stem_pool else 1
        return [f"P{first + stage}" for stage in range(len(self.options.depths))]

    def stride(self) -> int:
        """Pixels of the image per pixel of the last map."""
        return 2 ** int(self.level_names()[-1][1:])

    def channels(self) -> int:
        """Channels of the last map."""
        return self.options.width * 2 ** (len(self.options.depths) - 1) * (1 if self.options.block == "basic" else 4)

    def __call__(self, x):
        x = self.stem(x)
        levels, rates = {}, iter(self.drop_path_rates)
        for stage, (level, depth) in enumerate(zip(self.level_names(), self.options.depths, strict=True)):
            for block in range(depth):
                strides = 2 if stage > 0 and block == 0 else 1
                residual = self.basic if self.options.block == "basic" else self.bottleneck
                x = residual(
                    x, self.options.width * 2**stage, strides, next(rates), f"stage{stage + 1}_block{block + 1}"
                )
            levels[level] = x
        return levels

    def embed(self, levels: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
        """The mean over the last map."""
        return keras.layers.GlobalAveragePooling2D(name="pool")(levels[self.level_names()[-1]])

    def head_start(self, channels: int) -> Start:
        """PyTorch's default, as in torchvision."""
        return torch_start(channels)

    def stem(self, x: keras.KerasTensor) -> keras.KerasTensor:
        x = self.conv_norm(x, self.options.width, 7, 2, "stem")
        x = keras.layers.ReLU(name="stem_relu")(x)
        if self.options.stem_pool:
            # After a ReLU, zeros are as good as minus infinity.
            x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
            x = keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)
        return x

    def basic(
        self, x: keras.KerasTensor, channels: int, strides: int, drop_path_rate: float, name: str
    ) -> keras.KerasTensor:
        y = self.conv_norm(x, channels, 3, strides, f"{name}_1")
        y = keras.layers.ReLU(name=f"{name}_relu1")(y)
        y = self.conv_norm(y, channels, 3, 1, f"{name}_2", last=True)
        return self.add(x, y, strides, drop_path_rate, name)

    def bottleneck(
        self, x: keras.KerasTensor, channels: int, strides: int, drop_path_rate: float, name: str
    ) -> keras.KerasTensor:
        first, second = (strides, 1) if self.options.stride_in_1x1 else (1, strides)
        y = self.conv_norm(x, channels, 1, first, f"{name}_1")
        y = keras.layers.ReLU(name=f"{name}_relu1")(y)
        if self.acmix_options is None:
            y = self.conv_norm(y, channels, 3, second, f"{name}_2")
        else:
            y = ACmix(channels, strides=second, name=f"{name}_2_acmix", **self.acmix_options)(y)
            y = self.norm(y, f"{name}_2")
        y = keras.layers.ReLU(name=f"{name}_relu2")(y)
        y = self.conv_norm(y, 4 * channels, 1, 1, f"{name}_3", last=True)
        return self.add(x, y, strides, drop_path_rate, name)

    def add(
        self, shortcut: keras.KerasTensor, branch: keras.KerasTensor, strides: int, drop_path_rate: float, name: str
    ) -> keras.KerasTensor:
        """Residual sum: the shortcut is projected where its shape differs from the branch's."""
        channels = branch.shape[-1]
        if strides > 1 or shortcut.shape[-1] != channels:
            shortcut = self.conv_norm(shortcut, channels, 1, strides, f"{name}_shortcut")
        if drop_path_rate:
            branch = DropPath(drop_path_rate, name=f"{name}_drop_path")(branch)
        x = keras.layers.Add(name=f"{name}_add")([shortcut, branch])
        return keras.layers.ReLU(name=f"{name}_relu")(x)

    def conv_norm(
        self, x: keras.KerasTensor, channels: int, kernel_size: int, strides: int, name: str, last: bool = False
    ) -> keras.KerasTensor:
        """Convolution without bias, padded alike on both sides, and its batch norm."""
        if kernel_size > 1:  # 'same' would pad a strided convolution more on one side than trained weights expect
            x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        x = keras.layers.Conv2D(
            channels,
            kernel_size,
            strides=strides,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            name=f"{name}_conv",
        )(x)
        return self.norm(x, name, last)

    def norm(self, x: keras.KerasTensor, name: str, last: bool = False) -> keras.KerasTensor:
        gamma = "zeros" if last and self.options.zero_init_last_norm else "ones"
        return BatchNormalization(gamma_initializer=gamma, name=f"{name}_norm", **self.batch_norm.keras_arguments())(x)
