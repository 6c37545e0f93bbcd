"""Pyramid models of tfvt as backbones of keras-hub's tasks: RetinaNet, DeepLabV3, SegFormer (`pip install .[hub]`).

    backbone = tfvt.hub.PyramidBackbone("acmix_pvt_tiny", levels=("P3", "P4", "P5"), input_shape=(512, 512, 3))
    keras_hub.models.RetinaNetBackbone(image_encoder=backbone, min_level=3, max_level=7, use_p5=False)

Import this module before you load what holds such a backbone.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import keras_hub

from tfvt.create import create_model


@keras.saving.register_keras_serializable(package="tfvt")
class PyramidBackbone(keras_hub.models.FeaturePyramidBackbone):
    """The maps of a tfvt model as `pyramid_outputs`, from pixels (B, H, W, 3) in 0..255, normalised inside.

    It is saved and loaded with `.keras` files and keras-hub's presets. Its output is the same dict.

    Args:
        architecture: one of `tfvt.list_models()` that has `features`.
        levels: of the model, such as ("P2", "P3", "P4", "P5"); stride 2**n each.
        level_names: what keras-hub calls them, one for each; default the same. SegFormer reads P1 to P4 for the strides
            4 to 32: ("P1", "P2", "P3", "P4").
        input_shape: (height, width, channels) in pixels, None where the model takes any.
        weights: what `tfvt.load_checkpoint` takes, to start from.
        options: of the model, as `tfvt.create_model` takes them.
        **kwargs: name, dtype and trainable, as keras-hub's backbones.

    Attributes:
        pyramid_outputs: name -> symbolic map (B, H, W, C).
        hidden_dims: channels of the maps, in order.

    Raises:
        ValueError: as `tfvt.create_model`; or another number of names than levels.
    """

    def __init__(
        self,
        architecture: str,
        *,
        levels: Iterable[str] = ("P2", "P3", "P4", "P5"),
        level_names: Iterable[str] | None = None,
        input_shape: Sequence[int | None] = (None, None, 3),
        weights: Any = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        levels = tuple(levels)
        names = levels if level_names is None else tuple(level_names)
        if len(names) != len(levels):
            raise ValueError(f"level_names={names}: expected as many as levels={levels}")
        options = json.loads(json.dumps(options or {}, default=vars))  # as a file holds them
        model = create_model(architecture, input_shape=input_shape, features=levels, weights=weights, **options)
        maps = dict(zip(names, (model.output[level] for level in levels), strict=True))
        super().__init__(inputs=model.input, outputs=maps, **kwargs)
        self.architecture = architecture
        self.levels = levels
        self.level_names = names
        self.image_shape = tuple(input_shape)
        self.options = options
        self.pyramid_outputs = maps
        self.hidden_dims = [output.shape[-1] for output in maps.values()]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments without `weights`, which are in the file."""
        return {
            **super().get_config(),
            "architecture": self.architecture,
            "levels": list(self.levels),
            "level_names": list(self.level_names),
            "input_shape": list(self.image_shape),
            "options": self.options,
        }
