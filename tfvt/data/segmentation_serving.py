"""What surrounds a segmentation model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from tfvt.data.label_maps import coarse_model
from tfvt.data.segmentation import SegmentationEvaluation


@dataclass(frozen=True)
class SegmentationServing:
    """`Serving` of a model that gives each pixel a class.

    Attributes:
        class_names: one a class, in the order of the labels.
        evaluation: how a whole image becomes probabilities.
    """

    class_names: tuple[str, ...]
    evaluation: SegmentationEvaluation

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "SegmentationServing":
        """From what JSON holds.

        Raises:
            KeyError, TypeError, ValueError: `content` holds something else.
        """
        names, evaluation = content["class_names"], content["evaluation"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names is not a list of names")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in evaluation.items()}
        return cls(tuple(names), SegmentationEvaluation(**values))

    def check(self, model: keras.Model) -> None:
        """Refuse a model of other classes.

        Raises:
            ValueError: its number of classes is another.
        """
        classes = coarse_model(model).output_shape[-1]
        if len(self.class_names) != classes:
            raise ValueError(f"{len(self.class_names)} class names for a model with {classes} classes")
