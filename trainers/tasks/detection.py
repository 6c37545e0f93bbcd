"""Object detection: boxes, their classes, and for some models masks; COCO's average precision."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from tfvt.data.detection import DetectionEvaluation, DetectionSamples, DetectionTraining
from tfvt.data.detections import Detections
from tfvt.data.instance_masks import opened, pasted, run_lengths
from tfvt.data.records import RecordSet
from tfvt.models.detection_model import mask_rcnn_losses
from tfvt.models.mask_rcnn import mask_rcnn
from tfvt.models.retinanet import retinanet_losses
from tfvt.registry import get_variant
from tfvt.trainers.recipes.recipe import DataRecipe, Recipe

from .average_precision import FIGURES, average_precision, pack_masks
from .batch_total import batch_total
from .detection_serving import DetectionServing
from .task import Table, Task, dense_model, open_split

RPN_PARTS = ("rpn_class_loss", "rpn_box_loss")  # of a Mask R-CNN's first stage
PARTS = ("class_loss", "box_loss")


@dataclass(frozen=True)
class DetectionData(DataRecipe):
    """Which images and boxes to use, and how they become batches.

    Args:
        train: scale, crop and flip of training images.
        evaluation: how a model sees a whole image, and which boxes it gives, in evaluation, prediction and export.
    """

    train: DetectionTraining = field(default_factory=DetectionTraining)
    evaluation: DetectionEvaluation = field(default_factory=DetectionEvaluation)


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """One training run of a detector.

    Args:
        data: which images and boxes.
    """

    data: DetectionData


class Detection(Task):
    """`Task` of finding objects. Evaluation takes each image at its own size, and compares all of them at the end.

    Attributes:
        masks: whether the model also gives a mask of each object, as a Mask R-CNN does.
        parts: names of the parts of the loss.
    """

    recipe_class = DetectionRecipe
    serving_class = DetectionServing
    by_image = True

    def __init__(self, recipe: DetectionRecipe) -> None:
        self.recipe = recipe
        self.masks = get_variant(recipe.model.name).builder is mask_rcnn
        self.parts = (*RPN_PARTS, *PARTS, "mask_loss") if self.masks else PARTS

    @property
    def columns(self) -> tuple[str, ...]:
        """The parts of the loss, COCO's figures of boxes, and those of masks."""
        return (*self.parts, *FIGURES, *(f"mask_{name}" for name in FIGURES if self.masks))

    @functools.cached_property
    def train_records(self) -> RecordSet:
        """The training split."""
        return open_split(self.recipe.data, self.recipe.data.train_split, self._kind)

    @functools.cached_property
    def validation_records(self) -> RecordSet:
        """The split to evaluate on."""
        return open_split(self.recipe.data, self.recipe.data.validation_split, self._kind)

    @property
    def _kind(self):
        return "instance masks" if self.masks else "boxes"

    def samples(self, training: bool) -> DetectionSamples:
        """Images on a canvas with their boxes; in evaluation whole images."""
        data = self.recipe.data
        if training:
            return DetectionSamples.of(self.train_records, data.train, self.masks)
        return DetectionSamples.of(self.validation_records, data.evaluation, self.masks)

    def model(self) -> keras.Model:
        """The recipe's model for its records' classes: for images of any size, if its backbone is; otherwise for the
        training's.

        Raises:
            UsageError: an option that the model does not take, weights that do not fit, or an evaluation with images of
                a size that the model does not take.
        """
        return dense_model(self.recipe, self.train_records.num_classes, self.serving())

    def inputs(self, batch: Mapping[str, Any]) -> Any:
        """Images; a Mask R-CNN draws its proposals with the truth."""
        if not self.masks:
            return batch["image"]
        return {name: batch[name] for name in ("image", "size", "boxes", "labels", "crowd", "masks", "seed")}

    def loss(self, outputs: Any, batch: Mapping[str, Any], training: bool) -> dict[str, Any]:
        """Parts of the loss, (B,) each, as sums over an image's boxes, divided by those of the whole batch.

        An image's share is times the batch's images, so that the mean over the batch is the sum over its boxes.
        """
        if self.masks:
            sums = mask_rcnn_losses(outputs)
        else:
            found = retinanet_losses(outputs, batch["boxes"], batch["labels"], batch["crowd"], size=batch["size"])
            sums = {name: (found[name], found["positives"]) for name in ("class", "box")}
        counts = batch.get("weight", ops.ones_like(batch["is_empty"], dtype="float32"))
        images = batch_total(ops.ones_like(counts))
        if not self.recipe.data.train.keep_empty:
            counts = counts * ops.cast(ops.logical_not(batch["is_empty"]), "float32")
        losses = dict.fromkeys(self.parts, 0.0)
        for name, (values, numbers) in sums.items():
            share = images / ops.maximum(batch_total(counts * numbers), 1.0)
            part = name.rstrip("_0123456789")  # of all stages of a cascade
            losses[f"{part}_loss"] = losses[f"{part}_loss"] + counts * values * share
        return losses

    def no_sums(self) -> dict[str, np.ndarray]:
        """Zeros for the parts of the loss."""
        return {name: np.zeros(()) for name in self.parts}

    def sums(self, outputs: Any, batch: Mapping[str, Any], weights: Any) -> dict[str, Any]:
        """None: the parts of the loss are summed anyway."""
        return {}

    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """None: evaluation is by image."""

    def image_model(self, model: keras.Model) -> keras.Model:
        """From an image and its size to boxes."""
        self.canvas = model.input_shape[1:3]
        return self.serving().detector(model)

    def evaluate_image(
        self, forward: Callable[[Any], Any], sample: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """No loss; as a row, the true objects and those that the model found, in the image's own pixels."""

        def arrays(inputs):
            return {name: np.asarray(value) for name, value in forward(inputs).items()}

        found = Detections(arrays, self.recipe.data.evaluation, self.canvas)(sample["image"])
        row = {f"true_{name}": sample[name] for name in ("boxes", "labels", "crowd", "area")}
        is_object = np.asarray(found["labels"]) >= 0
        row |= {name: np.asarray(found[name])[is_object] for name in ("boxes", "scores", "labels")}
        size = sample["image"].shape[:2]
        if self.masks:
            row["true_masks"] = pack_masks([run_lengths(opened(encoded)) for encoded in sample["masks"]])
            found = zip(np.asarray(found["masks"])[is_object], row["boxes"], strict=True)
            row["masks"] = pack_masks([run_lengths(pasted(mask, box, size)) for mask, box in found])
        return {}, row | {"size": np.array(size)}

    def figures(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Of training the parts of the loss; of an evaluation COCO's numbers, see `average_precision`."""
        if not rows:
            return {name: float(sums[name] / sums["images"]) for name in self.parts}
        classes = self.train_records.num_classes
        figures = average_precision(rows, classes).figures
        if self.masks:
            of_masks = average_precision(rows, classes, "segm").figures
            figures |= {f"mask_{name}": value for name, value in of_masks.items()}
        return figures

    def table(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> Table:
        """Each class."""
        precision = average_precision(rows, self.train_records.num_classes).by_class
        labels = np.concatenate([row["true_labels"][~row["true_crowd"]] for row in rows])
        objects = np.bincount(labels, minlength=len(precision))
        cells = tuple(
            (name, _percent(share), str(number))
            for name, share, number in zip(self.validation_records.class_names, precision, objects, strict=True)
        )
        note = "Average precision over overlaps of 0.5 to 0.95, and the number of true objects."
        return Table("Classes", note, ("Class", "AP", "Objects"), cells)

    def summary(self, figures: Mapping[str, float]) -> str:
        """The parts of the loss, or average precision in per cent."""
        if "ap" not in figures:
            return ", ".join(
                f"{name.removesuffix('_loss').replace('_', ' ')} {figures[name]:.4f}" for name in self.parts
            )
        shares = {name: _percent(share) for name, share in figures.items()}
        text = f"AP {shares['ap']}, AP50 {shares['ap50']}, AP75 {shares['ap75']}"
        if self.masks:
            text += f", of masks {shares['mask_ap']}, {shares['mask_ap50']}, {shares['mask_ap75']}"
        return text

    def serving(self) -> DetectionServing:
        """Class names, the evaluation's settings, and the source's numbers of the classes."""
        records = self.train_records
        return DetectionServing(records.class_names, self.recipe.data.evaluation, records.category_ids)


def _percent(share):
    """For people; no share where there is nothing to find."""
    return "-" if np.isnan(share) else f"{share:.2%}"
