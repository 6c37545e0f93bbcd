"""ResNet with ACmix (Pan et al., CVPR 2022) in place of every 3x3 convolution of its bottlenecks.

Source: section 5.1 and Figure 4; the shape of the network is that of `tfvt.models.resnet`.
An ACmix starts as the authors' (github.com/LeapLabTHU/ACmix), projections as PyTorch's and the convolution as shifts.
Their ResNet then draws every convolution again, the shifts too, against section 4.3; ours does not.
"""

from typing import Literal

import keras

from tfvt.layers import drop_path_rates
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD, image_input, pyramid_model
from tfvt.models.resnet import ResNetTrunk, batch_norm_options
from tfvt.registry import register

VARIANTS = {
    "acmix_resnet26": {"depths": (1, 2, 4, 1)},
    "acmix_resnet38": {"depths": (2, 3, 5, 2)},
    "acmix_resnet50": {"depths": (3, 4, 6, 3)},
}


@register(VARIANTS)
def acmix_resnet(
    *,
    depths: tuple[int, ...],
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
    zero_init_last_norm: bool = False,
    num_heads: int = 4,
    attention_kernel_size: int = 7,
    shift: Literal["learned", "random", "fixed", "tensor"] = "learned",
    combine: Literal["both", "sum", "alpha", "complement", "attention", "convolution"] = "both",
    name: str | None = None,
) -> keras.Model:
    """Build an ACmix-ResNet.

    Args:
        depths: bottlenecks in each stage.
        num_classes: width of the classifier.
        input_shape: (height, width, channels) in pixels. Attention reflects every map that it sees, so with windows
            of 7x7 none may be smaller than 4x4: at least 97 pixels a side, or 49 where the last stage has one block.
        include_top: False returns the pooled embedding (B, C).
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P2" to "P5" (strides 4 to 32).
        pixel_mean, pixel_std: per channel, in pixel units; pixel_mean=None takes normalised floats.
        dropout_rate: on the embedding, before the classifier.
        drop_path_rate: stochastic depth of the last block; the others rise linearly to it, see `drop_path_rates`.
        batch_norm_epsilon, batch_norm_momentum: of every batch norm.
        synchronized_batch_norm: statistics over all replicas (TensorFlow's distribution strategies only).
        width: channels of the stem and of the first stage's ACmix; each later stage doubles them.
        zero_init_last_norm: the last scale of every block starts at 0, so that the block starts as identity.
        num_heads, attention_kernel_size, shift, combine: of every ACmix, see `tfvt.layers.ACmix`.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    trunk = ResNetTrunk(
        block="bottleneck",
        depths=depths,
        width=width,
        stem_pool=True,
        stride_in_1x1=False,
        zero_init_last_norm=zero_init_last_norm,
        drop_path_rates=tuple(drop_path_rates(drop_path_rate, sum(depths), first_drops=True)),
        norm_options=batch_norm_options(batch_norm_epsilon, batch_norm_momentum, synchronized_batch_norm),
        acmix_options={
            "num_heads": num_heads,
            "attention_kernel_size": attention_kernel_size,
            "shift": shift,
            "combine": combine,
        },
    )
    # The last ACmix of one block alone reads the map of the stage before it; that of several blocks the last map.
    last_stride = trunk.stride() if depths[-1] > 1 else trunk.stride() // 2
    minimum = attention_kernel_size // 2 * last_stride + 1
    inputs, x = image_input(input_shape, minimum=minimum, pixel_mean=pixel_mean, pixel_std=pixel_std)
    return pyramid_model(inputs, x, trunk, features, include_top, num_classes, dropout_rate, name)
