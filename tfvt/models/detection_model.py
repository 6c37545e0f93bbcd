"""The model of a detector with proposals, which answers for an image alone and learns where the truth is given too."""

from collections.abc import Mapping
from typing import Any

import keras

TRUTH = ("boxes", "labels", "crowd", "seed")


@keras.saving.register_keras_serializable(package="tfvt")
class DetectionModel(keras.Model):
    """A functional model of several inputs, all but the image of which may be missing.

    Called on images (B, H, W, 3), pixels 0..255, or on a dict with "image" and what there is of

    - "size": int32 (B, 2), height and width of what each image holds in its upper left corner; without, all.
    - "boxes" (B, N, 4), y1, x1, y2, x2 in pixels, "labels" int32 (B, N), -1 for a slot without a box, "crowd" bool
      (B, N), and "seed" int32 (B, 2), of the samples: the truth, from which and for which the model then learns.
    - "masks": uint8 (B, N, m, m), 0 or 1 within the boxes.

    Gives a dict, in which R are the proposals that the second stage reads, and K the classes:

    - "rpn_logits" (B, A, 1), "rpn_deltas" (B, A, 4) and "anchors" (B, A, 4).
    - "proposals" (B, R, 4), "states" (B, R), -1 where there is none and 1 for one of an object, "class_logits" (B, R,
      K + 1), the background last, and "box_deltas" (B, R, K, 4).
    - "boxes" (B, D, 4), "scores" (B, D) and "labels" (B, D), -1 where there is no box; empty with the truth.
    - "mask_logits" (B, D, 28, 28, K) of these boxes, or, with the truth, of the first proposals.
    - sums of losses of an image and what to divide them by, see `mask_rcnn_losses`; zeros without the truth.

    With `training=True` more proposals take part. Names of what each stage of a cascade has end in its number:
    "proposals_1".
    """

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Of the image: (None, height, width, channels)."""
        return tuple(self.input["image"].shape)

    @property
    def stages(self) -> tuple[str, ...]:
        """What the names of each stage end in."""
        names = (name.partition("class_logits") for name in self.output)
        return tuple(stage for _, found, stage in names if found)

    @property
    def maps(self) -> list[keras.KerasTensor]:
        """Of the neck, the finest first, as the second stage reads them."""
        return list(self.get_layer(f"box_pooling{self.stages[0]}").input[:-1])

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self._all_inputs(inputs), *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> dict[str, Any]:
        """The answers, of whatever inputs there are."""
        return super().call(self._all_inputs(inputs), training=training, mask=mask)

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types, whatever is missing."""
        given = self._all_inputs(inputs)
        return super().compute_output_spec({name: self.input[name] if x is None else x for name, x in given.items()})

    def _all_inputs(self, inputs):
        given = inputs if isinstance(inputs, Mapping) else {"image": inputs}
        missing = [name for name in TRUTH if given.get(name) is None]
        if 0 < len(missing) < len(TRUTH):
            raise ValueError(f"{self.name} learns from {', '.join(TRUTH)} together: {', '.join(missing)} is missing")
        return {name: given.get(name) for name in self.input}


def mask_rcnn_losses(outputs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The losses in what a `DetectionModel` gives for images with their truth.

    Returns:
        Name -> (the weighted sums over what each image has, (B,); the number of what it has, (B,)). The loss is the sum
        over names of the sums of the whole batch divided by the numbers of the whole batch, at least 1.
    """
    losses = {}
    for name, sums in outputs.items():
        part, found, stage = name.partition("_loss")
        if found:
            counted = {"rpn_class": "rpn_count", "rpn_box": "rpn_count", "mask": "mask_count"}.get(part, "count")
            losses[part + stage] = sums, outputs[counted + stage]
    return losses
