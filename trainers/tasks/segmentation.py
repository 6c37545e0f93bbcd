"""Semantic segmentation: cross entropy of pixels, mean intersection over union."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from tfvt.data.confusion import confusion_matrix, segmentation_figures
from tfvt.data.label_maps import LabelMaps, coarse_model, padded
from tfvt.data.records import VOID, RecordSet
from tfvt.data.segmentation import SegmentationEvaluation, SegmentationSamples, SegmentationTraining
from tfvt.data.segmentation_serving import SegmentationServing
from tfvt.trainers.recipes.recipe import DataRecipe, Recipe

from .task import Table, Task, dense_model, open_split

SMALLEST = 1e-30  # of a probability, so that its logarithm is finite


@dataclass(frozen=True)
class SegmentationData(DataRecipe):
    """Which images and masks to use, and how they become batches.

    Args:
        train: scale, crop, flip and colours of training images.
        evaluation: how a model sees a whole image, in evaluation, prediction and export.
    """

    train: SegmentationTraining = field(default_factory=SegmentationTraining)
    evaluation: SegmentationEvaluation = field(default_factory=SegmentationEvaluation)


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """One training run of a segmentation model.

    Args:
        data: which images and masks.
        auxiliary_weight: of the loss of an auxiliary head, in a model that has one.
    """

    data: SegmentationData
    auxiliary_weight: float = 0.4


class Segmentation(Task):
    """`Task` of giving each pixel a class. Evaluation scores each mask at its own size."""

    recipe_class = SegmentationRecipe
    serving_class = SegmentationServing
    columns = ("miou", "pixel_accuracy", "class_accuracy")
    by_image = True

    def __init__(self, recipe: SegmentationRecipe) -> None:
        self.recipe = recipe

    @functools.cached_property
    def train_records(self) -> RecordSet:
        """The training split."""
        return open_split(self.recipe.data, self.recipe.data.train_split, "masks")

    @functools.cached_property
    def validation_records(self) -> RecordSet:
        """The split to evaluate on."""
        return open_split(self.recipe.data, self.recipe.data.validation_split, "masks")

    def samples(self, training: bool) -> SegmentationSamples:
        """Crops of images with those of their masks; in evaluation whole images."""
        data = self.recipe.data
        if training:
            return SegmentationSamples.of(self.train_records, data.train)
        return SegmentationSamples.of(self.validation_records, data.evaluation)

    def model(self) -> keras.Model:
        """The recipe's model for its records' classes: for images of any size, if its backbone is; otherwise for crops.

        Raises:
            UsageError: an option that the model does not take, weights that do not fit, or an evaluation with images of
                a size that the model does not take.
        """
        return dense_model(self.recipe, self.train_records.num_classes, self.serving())

    def loss(self, outputs: Any, batch: Mapping[str, Any], training: bool) -> Any:
        """Mean cross entropy (B,) of an image's pixels, of which void ones count 0; an auxiliary head adds its share.

        As mmsegmentation's: the sum is divided by the number of all pixels.
        """
        logits, auxiliary = _heads(outputs)
        loss = pixel_cross_entropy(batch["mask"], logits)
        if auxiliary is None:
            return loss
        return loss + self.recipe.auxiliary_weight * pixel_cross_entropy(batch["mask"], auxiliary)

    def no_sums(self) -> dict[str, np.ndarray]:
        """Zeros for the confusion matrix: rows are labels, columns predictions."""
        classes = self.train_records.num_classes
        return {"confusion": np.zeros((classes, classes))}

    def sums(self, outputs: Any, batch: Mapping[str, Any], weights: Any) -> dict[str, Any]:
        """The confusion matrix of a training batch's pixels."""
        logits, _ = _heads(outputs)
        classes = logits.shape[-1]
        mask, predicted = ops.cast(batch["mask"], "int32"), ops.cast(ops.argmax(logits, axis=-1), "int32")
        counts = ops.logical_and(mask != VOID, ops.reshape(weights > 0, (-1, 1, 1)))
        # Pixels that do not count go to a cell of their own. Integers, because float32 counts no further than 2**24.
        cells = ops.where(counts, classes * mask + predicted, classes**2)
        cells = ops.reshape(cells, (-1,))
        matrix = ops.segment_sum(ops.ones_like(cells), cells, num_segments=classes**2 + 1)
        return {"confusion": ops.reshape(matrix[:-1], (classes, classes))}

    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """None: evaluation is by image."""

    def image_model(self, model: keras.Model) -> keras.Model:
        """From pixels to the logits before they are resized to the image, which are 16 times fewer."""
        self.input_size = model.input_shape[1:3]
        return coarse_model(model)

    def evaluate_image(
        self, forward: Callable[[Any], Any], sample: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], None]:
        """Loss and confusion matrix at the mask's own size."""
        image, mask = sample["image"], sample["mask"]
        loss, matrix = 0.0, np.zeros((self.train_records.num_classes,) * 2, np.int64)
        maps = LabelMaps(padded(forward, self.input_size), self.recipe.data.evaluation)
        for y, x, probabilities in maps.blocks(image):
            probabilities = np.asarray(probabilities)
            height, width, classes = probabilities.shape
            labels = mask[y : y + height, x : x + width]
            matrix += confusion_matrix(labels, probabilities.argmax(-1), classes)
            labelled = labels != VOID
            right = probabilities[labelled, labels[labelled]]
            loss -= float(np.log(np.maximum(right, SMALLEST)).sum(dtype=np.float64))
        return {"loss": loss / mask.size, "confusion": matrix}, None

    def figures(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Shares in 0..1, see `segmentation_figures`."""
        figures = segmentation_figures(sums["confusion"])
        return {
            "miou": figures.miou,
            "pixel_accuracy": figures.pixel_accuracy,
            "class_accuracy": figures.mean_class_accuracy,
        }

    def table(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> Table:
        """Each class."""
        matrix = sums["confusion"]
        figures = segmentation_figures(matrix)
        labelled = matrix.sum(axis=1)
        with np.errstate(invalid="ignore"):
            right = np.diag(matrix) / labelled
        rows = tuple(
            (name, _percent(iou), _percent(accuracy), _percent(pixels / max(labelled.sum(), 1)))
            for name, iou, accuracy, pixels in zip(
                self.validation_records.class_names, figures.iou, right, labelled, strict=True
            )
        )
        note = "Intersection over union, the share of a class's pixels that are right, and its share of all pixels."
        return Table("Classes", note, ("Class", "IoU", "Right", "Pixels"), rows)

    def summary(self, figures: Mapping[str, float]) -> str:
        """In per cent."""
        return f"mIoU {figures['miou']:.2%}, pixels {figures['pixel_accuracy']:.2%}"

    def serving(self) -> SegmentationServing:
        """Class names and the evaluation's settings."""
        return SegmentationServing(self.train_records.class_names, self.recipe.data.evaluation)


def _heads(outputs):
    """The logits, and those of the auxiliary head or None."""
    return (outputs["logits"], outputs["auxiliary"]) if isinstance(outputs, Mapping) else (outputs, None)


def _percent(share):
    return "-" if np.isnan(share) else f"{share:.2%}"


def pixel_cross_entropy(mask: Any, logits: Any) -> Any:
    """Mean over the pixels of each image (B,) of their soft-max cross entropy, 0 where the mask is `VOID`.

    Args:
        mask: integers (B, H, W).
        logits: (B, H, W, classes).
    """
    labelled = mask != VOID
    losses = keras.losses.sparse_categorical_crossentropy(ops.where(labelled, mask, 0), logits, from_logits=True)
    return ops.mean(ops.where(labelled, losses, 0.0), axis=(1, 2))
