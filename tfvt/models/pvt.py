"""Pyramid Vision Transformer (PVT, Wang et al. 2021), and with ACmix in place of its attention.

Sources: https://arxiv.org/abs/2102.12122, section 3 and Table 1; ACmix (Pan et al., CVPR 2022), Figure 4, whose PVT was
never released: the wiring of its convolution path is the one whose counts fit the paper's. Weights start as in the
authors' classification/pvt.py (github.com/whai362/PVT): dense layers, class token and positions normal with standard
deviation 0.02, convolutions as PyTorch's.
"""

from dataclasses import dataclass
from typing import Literal

import keras

from tfvt.layers import MapPositions, PatchEmbedding, PVTBlock, drop_path_rates
from tfvt.layers.acmix import Shift
from tfvt.layers.initializers import Start, normal_start
from tfvt.models.base import image_input, pyramid_model
from tfvt.models.options import Head, Pixels, spell_out
from tfvt.registry import register

VARIANTS = {
    "pvt_tiny": {"depths": (2, 2, 2, 2)},
    "pvt_small": {"depths": (3, 4, 6, 3)},
    "pvt_large": {"depths": (3, 8, 27, 3)},
    "acmix_pvt_tiny": {"depths": (2, 2, 2, 2), "mixer": "acmix"},
    "acmix_pvt_small": {"depths": (3, 4, 6, 3), "mixer": "acmix"},
}
# Of the four stages.
HEADS = (1, 2, 5, 8)
MLP_RATIOS = (8, 8, 4, 4)
REDUCTIONS = (8, 4, 2, 1)
PATCH_SIZES = (4, 2, 2, 2)


@register(VARIANTS)
@spell_out
def pvt(
    *,
    depths: tuple[int, int, int, int],
    mixer: Literal["attention", "acmix"] = "attention",
    shift: Shift = "learned",
    combine: Literal["both", "sum", "alpha", "complement", "attention"] = "both",
    head: Head,
    pixels: Pixels,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    drop_path_rate: float = 0.0,
    layer_norm_epsilon: float = 1e-6,
    head_dim: int = 64,
    class_token: bool = True,
    positions_shape: tuple[int, int] | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build a PVT.

    Args:
        depths: blocks in each of the four stages.
        mixer: of every block: "attention", see `tfvt.layers.GlobalAttention`, or "acmix".
        shift, combine: of every ACmix, see `tfvt.layers.ACmix`; without attention no class token could classify.
        include_top: False returns the embedding (B, C), the class token.
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P2" to "P5" (strides 4 to 32), as
            the stages give them, without class token and last norm.
        dropout_rate: after the positions, in every block and before the classifier (the authors have none there).
        input_shape: (height, width, channels) in pixels, any fixed size: patches are padded, and weights that were
            trained at another size are loaded with their positions resampled.
        drop_path_rate: stochastic depth of the last block; the others rise linearly to it from 0.
        layer_norm_epsilon: of every layer norm. In the authors' code the norms of the patches and of the reduced map
            have 1e-5, in transformers all have 1e-6.
        head_dim: channels of an attention head.
        class_token: False leaves it out of the last stage, as the authors' segmentation does; for `features` alone.
        positions_shape: (height, width) in pixels of the images for which the tables of positions are; images of other
            sizes resample them, and `input_shape` may be (None, None, 3). None: that of `input_shape`.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    if None in input_shape and positions_shape is None:
        raise ValueError(
            f"input_shape={input_shape}: a PVT has position embeddings for one height and width; positions_shape says "
            "for which, where images have others"
        )
    if head.features is None and not class_token:
        raise ValueError("class_token=False: the classifier reads the class token; pass features to have the maps")
    trunk = PVTTrunk(
        depths=depths,
        class_token=class_token,
        positions_shape=positions_shape,
        head_dim=head_dim,
        dropout_rate=head.dropout_rate,
        drop_path_rate=drop_path_rate,
        layer_norm_epsilon=layer_norm_epsilon,
        block_options={"mixer": mixer, "shift": shift, "combine": combine},
    )
    inputs, x = image_input(input_shape, minimum=PATCH_SIZES[0], pixels=pixels)
    return pyramid_model(inputs, x, trunk, head, name)


@dataclass(frozen=True)
class PVTTrunk:
    """Four stages. Called on a normalised map (B, H, W, C), gives a dict level -> map, and "token" -> (B, 1, C)."""

    depths: tuple[int, ...]
    class_token: bool
    positions_shape: tuple[int, int] | None
    head_dim: int
    dropout_rate: float
    drop_path_rate: float
    layer_norm_epsilon: float
    block_options: dict

    def __post_init__(self):
        if len(self.depths) != len(HEADS):
            raise ValueError(f"depths={self.depths}: expected {len(HEADS)} stages")
        if self.positions_shape is not None and len(self.positions_shape) != 2:
            raise ValueError(f"positions_shape={self.positions_shape}: expected a height and a width in pixels")

    def level_names(self) -> list[str]:
        """The stages' strides are 4 to 32."""
        return ["P2", "P3", "P4", "P5"]

    def __call__(self, x):
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths), first_drops=False))
        levels, grid = {}, self.positions_shape
        for stage, (level, depth) in enumerate(zip(self.level_names(), self.depths, strict=True)):
            name, channels = f"stage{stage + 1}", HEADS[stage] * self.head_dim
            x = PatchEmbedding(channels, PATCH_SIZES[stage], self.layer_norm_epsilon, name=f"{name}_embedding")(x)
            token = self.class_token and stage == len(HEADS) - 1
            grid = grid and tuple(-(-side // PATCH_SIZES[stage]) for side in grid)
            states = MapPositions(class_token=token, grid=grid, name=f"{name}_positions")(x)
            states = states if token else (states,)
            if self.dropout_rate:
                states = [
                    keras.layers.Dropout(self.dropout_rate, name=f"{name}_dropout{i}")(s) for i, s in enumerate(states)
                ]
            for block in range(depth):
                states = self.block(stage, next(rates), f"{name}_block{block + 1}")(*states)
                states = states if token else (states,)
            x = levels[level] = states[0]
        if self.class_token:
            levels["token"] = states[1]
        return levels

    def block(self, stage: int, drop_path_rate: float, name: str) -> PVTBlock:
        return PVTBlock(
            num_heads=HEADS[stage],
            reduction=REDUCTIONS[stage],
            mlp_ratio=MLP_RATIOS[stage],
            dropout_rate=self.dropout_rate,
            drop_path_rate=drop_path_rate,
            layer_norm_epsilon=self.layer_norm_epsilon,
            name=name,
            **self.block_options,
        )

    def embed(self, levels: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
        """The class token, normed."""
        x = keras.layers.LayerNormalization(epsilon=self.layer_norm_epsilon, name="norm")(levels["token"])
        return keras.layers.Flatten(name="class_token")(x)

    def head_start(self, channels: int) -> Start:
        """The authors'."""
        return normal_start()
