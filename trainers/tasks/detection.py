"""Object detection: boxes, their classes, and for some models masks; COCO's average precision."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

import tfvt
from tfvt.data.detection import DetectionEvaluation, DetectionSamples, DetectionTraining
from tfvt.data.detection_serving import DetectionServing
from tfvt.data.detections import Detections
from tfvt.data.records import RecordSet
from tfvt.errors import UsageError
from tfvt.models.retinanet import retinanet_losses
from tfvt.trainers.recipes.recipe import DataRecipe, Recipe

from .average_precision import FIGURES, average_precision
from .batch_total import batch_total
from .task import Table, Task, open_split

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
        box_weight: of the loss of boxes, beside that of classes.
    """

    data: DetectionData
    box_weight: float = 1.0


class Detection(Task):
    """`Task` of finding objects. Evaluation takes each image at its own size, and compares all of them at the end."""

    recipe_class = DetectionRecipe
    serving_class = DetectionServing
    columns = (*PARTS, *FIGURES)
    by_image = True

    def __init__(self, recipe: DetectionRecipe) -> None:
        self.recipe = recipe

    @functools.cached_property
    def train_records(self) -> RecordSet:
        """The training split."""
        return open_split(self.recipe.data, self.recipe.data.train_split, "boxes")

    @functools.cached_property
    def validation_records(self) -> RecordSet:
        """The split to evaluate on."""
        return open_split(self.recipe.data, self.recipe.data.validation_split, "boxes")

    def samples(self, training: bool) -> DetectionSamples:
        """Images on a canvas with their boxes; in evaluation whole images."""
        data = self.recipe.data
        if training:
            return DetectionSamples.of(self.train_records, data.train)
        return DetectionSamples.of(self.validation_records, data.evaluation)

    def model(self) -> keras.Model:
        """The recipe's model for its records' classes: for images of any size, if its backbone is; otherwise for the
        training's.

        Raises:
            UsageError: an option that the model does not take, weights that do not fit, or an evaluation with images of
                a size that the model does not take.
        """
        model, data = self.recipe.model, self.recipe.data
        build = functools.partial(
            tfvt.create_model,
            model.name,
            num_classes=self.train_records.num_classes,
            weights=model.weights,
            **model.options,
        )
        try:
            try:
                model = build(input_shape=(None, None, 3))
            except ValueError as error:
                if "input_shape" not in str(error):
                    raise
                model = build(input_shape=(*data.train.image_size, 3))
            self.serving().check(model)
        except (ValueError, OSError) as error:
            raise UsageError(f"model: {error}") from error
        return model

    def loss(self, outputs: Any, batch: Mapping[str, Any], training: bool) -> dict[str, Any]:
        """Focal loss of the classes and L1 of the boxes, (B,) each, divided by the positive anchors of the whole batch.

        An image's share is times the batch's images, so that the mean over the batch is the sum over its anchors.
        """
        sums = retinanet_losses(outputs, batch["boxes"], batch["labels"], batch["crowd"])
        weights = batch.get("weight", ops.ones_like(sums["class"]))
        if not self.recipe.data.train.keep_empty:
            has_objects = ops.cast(ops.logical_not(batch["is_empty"]), "float32")
            sums = {name: value * has_objects for name, value in sums.items()}
        share = batch_total(ops.ones_like(weights)) / ops.maximum(batch_total(weights * sums["positives"]), 1.0)
        return {"class_loss": share * sums["class"], "box_loss": self.recipe.box_weight * share * sums["box"]}

    def no_sums(self) -> dict[str, np.ndarray]:
        """Zeros for the parts of the loss."""
        return {name: np.zeros(()) for name in PARTS}

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
        return {}, row | {"size": np.array(sample["image"].shape[:2])}

    def figures(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Of training the parts of the loss; of an evaluation COCO's twelve numbers, see `average_precision`."""
        if not rows:
            return {name: float(sums[name] / sums["images"]) for name in PARTS}
        return average_precision(rows, self.train_records.num_classes).figures

    def table(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> Table:
        """Each class."""
        precision = average_precision(rows, self.train_records.num_classes).by_class
        labels = np.concatenate([row["true_labels"][~row["true_crowd"]] for row in rows])
        objects = np.bincount(labels, minlength=len(precision))
        cells = tuple(
            (name, "-" if np.isnan(share) else f"{share:.2%}", str(number))
            for name, share, number in zip(self.validation_records.class_names, precision, objects, strict=True)
        )
        note = "Average precision over overlaps of 0.5 to 0.95, and the number of true objects."
        return Table("Classes", note, ("Class", "AP", "Objects"), cells)

    def summary(self, figures: Mapping[str, float]) -> str:
        """The parts of the loss, or average precision in per cent."""
        if "ap" not in figures:
            return f"classes {figures['class_loss']:.4f}, boxes {figures['box_loss']:.4f}"
        return f"AP {figures['ap']:.2%}, AP50 {figures['ap50']:.2%}, AP75 {figures['ap75']:.2%}"

    def serving(self) -> DetectionServing:
        """Class names, the evaluation's settings, and the source's numbers of the classes."""
        records = self.train_records
        return DetectionServing(records.class_names, self.recipe.data.evaluation, records.category_ids)
