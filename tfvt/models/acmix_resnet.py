"""ResNet with ACmix (Pan et al., CVPR 2022) in place of every 3x3 convolution of its bottlenecks.

Source: section 5.1 and Figure 4; the shape of the network is that of `tfvt.models.resnet`. SASA-ResNet (Ramachandran
et al. 2019, https://arxiv.org/abs/1906.05909), the baseline of Table 3, is here ACmix's own attention alone, with the
convolutional stem and ACmix's position embeddings.
An ACmix starts as the authors' (github.com/LeapLabTHU/ACmix), projections as PyTorch's and the convolution as shifts.
Their ResNet then draws every convolution again, the shifts too, against section 4.3; ours does not.
"""

from dataclasses import dataclass

import keras

from tfvt.layers import drop_path_rates
from tfvt.models.base import image_input, pyramid_model
from tfvt.models.options import BatchNorm, Head, Mixing, Pixels, spell_out
from tfvt.models.resnet import ResNetOptions, ResNetTrunk
from tfvt.registry import register

VARIANTS = {
    "acmix_resnet26": {"depths": (1, 2, 4, 1)},
    "acmix_resnet38": {"depths": (2, 3, 5, 2)},
    "acmix_resnet50": {"depths": (3, 4, 6, 3)},
    # Stand-alone self-attention: ACmix's attention without its convolution.
    "sasa_resnet26": {"depths": (1, 2, 4, 1), "combine": "attention"},
    "sasa_resnet38": {"depths": (2, 3, 5, 2), "combine": "attention"},
    "sasa_resnet50": {"depths": (3, 4, 6, 3), "combine": "attention"},
}


@dataclass(frozen=True)
class ACmixOptions(Mixing):
    """Every ACmix of the network.

    Args:
        num_heads, attention_kernel_size, shift, combine: of every ACmix, see `tfvt.layers.ACmix`.
    """

    num_heads: int = 4
    attention_kernel_size: int = 7


@register(VARIANTS)
@spell_out
def acmix_resnet(
    *,
    depths: tuple[int, ...],
    width: int = 64,
    zero_init_last_norm: bool = False,
    acmix: ACmixOptions,
    head: Head,
    pixels: Pixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    drop_path_rate: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Build an ACmix-ResNet.

    Args:
        depths: bottlenecks in each stage.
        width: channels of the stem and of the first stage's ACmix; each later stage doubles them.
        zero_init_last_norm: the last scale of every block starts at 0, so that the block starts as identity.
        input_shape: (height, width, channels) in pixels. Attention reflects every map that it sees, so with windows
            of 7x7 none may be smaller than 4x4: at least 97 pixels a side, or 49 where the last stage has one block.
        drop_path_rate: stochastic depth of the last block; the others rise linearly to it, see `drop_path_rates`.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    options = ResNetOptions("bottleneck", depths, width, zero_init_last_norm=zero_init_last_norm)
    rates = drop_path_rates(drop_path_rate, sum(depths), first_drops=True)
    trunk = ResNetTrunk(options, batch_norm, rates, vars(acmix))
    # The last ACmix of one block alone reads the map of the stage before it; that of several blocks the last map.
    last_stride = trunk.stride() if depths[-1] > 1 else trunk.stride() // 2
    minimum = acmix.attention_kernel_size // 2 * last_stride + 1
    inputs, x = image_input(input_shape, minimum=minimum, pixels=pixels)
    return pyramid_model(inputs, x, trunk, head, name)
