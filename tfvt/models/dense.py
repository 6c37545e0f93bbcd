"""What the models of dense tasks share: a backbone by its name, and a classifier of pixels.

The layers of the backbone stand in the model itself under their own names, so that a checkpoint of a classifier, or a
run that trained one, fills them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import keras

from tfvt.layers import BatchNormalization, JoinedConvolution, Upsample
from tfvt.models.base import check_features
from tfvt.models.options import BatchNorm, Head, Options, Pixels
from tfvt.registry import check_options, get_variant, option_names

NORM_GROUPS = 32  # of a group norm, as in detectron2


@dataclass(frozen=True)
class BackbonePixels(Pixels):
    """How a model normalises its input.

    Args:
        pixel_mean, pixel_std: per channel, in pixel units; pixel_mean=None takes normalised floats; () stands for the
            backbone's own.
    """

    pixel_mean: tuple[float, ...] | None = ()
    pixel_std: tuple[float, ...] | None = ()


@dataclass(frozen=True)
class Backbone(Options):
    """The network below a neck.

    Args:
        backbone: name of a classification model.
        backbone_options: options of that model, as `create_model` takes them.
        levels: of its maps that the neck reads, such as ("P2", "P3", "P4", "P5"), or ("P4",) of a ViT.
        drop_path_rate: stochastic depth of the backbone.
    """

    backbone: str
    backbone_options: dict | None = None
    levels: tuple[str, ...] = ("P2", "P3", "P4", "P5")
    drop_path_rate: float = 0.0

    def maps(
        self, input_shape: tuple[int | None, int | None, int], pixels: Pixels, batch_norm: BatchNorm
    ) -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
        """The backbone's input (B, H, W, 3), and its maps by their levels, finest first.

        Raises:
            ValueError: a name that is no classification model's, an option or a level that it does not have.
        """
        variant = get_variant(self.backbone)
        if variant.task != "classification":
            raise ValueError(f"backbone={self.backbone!r}: expected a classification model, not one of {variant.task}")
        shared = {name: value for name, value in vars(pixels).items() if value != ()}
        shared |= {k: v for k, v in vars(batch_norm).items() if k in option_names(self.backbone)}
        own = self.backbone_options or {}
        options = variant.row | shared | {"drop_path_rate": self.drop_path_rate, **own}
        levels = tuple(sorted(self.levels))
        try:
            check_options(self.backbone, own)
            model = variant.builder(**options, input_shape=input_shape, features=levels)
        except ValueError as error:
            raise ValueError(f"backbone={self.backbone!r}, levels={levels}: {error}") from None
        maps = model.output
        return model.inputs[0], {level: maps[level] for level in levels}


@dataclass(frozen=True)
class ConvNorm:
    """A convolution without bias, its norm, and a ReLU.

    Called on a map (B, H, W, C), or a list of maps for a `JoinedConvolution`, with channels, kernel size and name.
    """

    batch_norm: BatchNorm
    norm: Literal["batch", "group"] = "batch"

    def __call__(
        self, x: keras.KerasTensor | list[keras.KerasTensor], channels: int, kernel_size: int, name: str
    ) -> keras.KerasTensor:
        if isinstance(x, list):
            x = JoinedConvolution(channels, name=f"{name}_conv")(x)
        else:
            start = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
            x = keras.layers.Conv2D(
                channels, kernel_size, padding="same", use_bias=False, kernel_initializer=start, name=f"{name}_conv"
            )(x)
        if self.norm == "group":
            if channels % NORM_GROUPS:
                raise ValueError(f"group norm of {channels} channels: expected a multiple of {NORM_GROUPS}")
            epsilon = self.batch_norm.batch_norm_epsilon
            x = keras.layers.GroupNormalization(NORM_GROUPS, epsilon=epsilon, name=f"{name}_norm")(x)
        else:
            x = BatchNormalization(name=f"{name}_norm", **self.batch_norm.keras_arguments())(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x)


def pixel_logits(
    x: keras.KerasTensor, image: keras.KerasTensor, factor: int, head: Head, name: str = "head"
) -> keras.KerasTensor:
    """Dropout of whole channels, as mmsegmentation's, a 1x1 to the classes, and bilinear to the image's size.

    Args:
        x: (B, h, w, C).
        image: (B, H, W, any).
        factor: stride of `x`.
        head: `Head`.
        name: of the classifier.

    Returns:
        Logits (B, H, W, num_classes), float32.
    """
    if head.dropout_rate:
        x = keras.layers.SpatialDropout2D(head.dropout_rate, name=f"{name}_dropout")(x)
    start = keras.initializers.RandomNormal(stddev=0.01)
    options = {"kernel_initializer": start, "dtype": "float32", "name": name}
    x = keras.layers.Conv2D(int(head.num_classes), 1, **options)(x)
    return Upsample(factor, dtype="float32", name=f"{name}_upsample")(x, image)


def neck_maps(maps: Mapping[str, keras.KerasTensor], features: tuple[str, ...]) -> dict[str, keras.KerasTensor]:
    """The levels of a neck that `features` names; raise a ValueError unless it has them."""
    check_features(features, list(maps))
    return {level: maps[level] for level in features}
