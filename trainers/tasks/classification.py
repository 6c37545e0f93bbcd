"""Classification: cross entropy over classes, top-1 and top-5."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

import tfvt
from tfvt.data.classification import ClassificationSamples, ClassificationServing
from tfvt.data.images import EvalPreprocessing, TrainPreprocessing
from tfvt.data.mixing import Mixing
from tfvt.data.records import RecordSet
from tfvt.errors import UsageError
from tfvt.trainers.recipes.distillation import DistillationRecipe
from tfvt.trainers.recipes.recipe import DataRecipe, Recipe

from .confusion import sample_pictures, worst_classes
from .task import Pictures, Table, Task, open_split


@dataclass(frozen=True)
class ClassificationData(DataRecipe):
    """Which images to use, and how they become batches.

    Args:
        train: random crop, flip and other augmentation of training images.
        mixing: MixUp and CutMix of training batches.
        evaluation: centre crop for evaluation, prediction and export.
    """

    train: TrainPreprocessing = field(default_factory=TrainPreprocessing)
    mixing: Mixing = field(default_factory=Mixing)
    evaluation: EvalPreprocessing = field(default_factory=EvalPreprocessing)


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """One training run of a classifier.

    Args:
        data: which images.
        label_smoothing: share of the target spread evenly over all classes, in training.
        distillation: a trained model to learn from.
    """

    data: ClassificationData
    label_smoothing: float = 0.0
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)

    def __post_init__(self):
        super().__post_init__()
        if self.data.train.image_size != self.data.evaluation.image_size:
            raise UsageError(
                f"data.train.image_size {self.data.train.image_size} and data.evaluation.image_size "
                f"{self.data.evaluation.image_size} must be equal: the model is built for one size"
            )

    @property
    def files(self) -> dict[str, str]:
        """With those of the teacher."""
        return super().files | {f"distillation.{key}": path for key, path in self.distillation.files.items()}


class Classification(Task):
    """`Task` of recognising the class that an image shows."""

    recipe_class = ClassificationRecipe
    serving_class = ClassificationServing
    columns = ("top1", "top5")

    def __init__(self, recipe: ClassificationRecipe) -> None:
        self.recipe = recipe

    @functools.cached_property
    def train_records(self) -> RecordSet:
        """The training split."""
        return open_split(self.recipe.data, self.recipe.data.train_split)

    @functools.cached_property
    def validation_records(self) -> RecordSet:
        """The split to evaluate on."""
        return open_split(self.recipe.data, self.recipe.data.validation_split)

    def samples(self, training: bool) -> ClassificationSamples:
        """Images with their class; in training, augmented and mixed."""
        data = self.recipe.data
        if training:
            return ClassificationSamples.of(self.train_records, data.train, data.mixing)
        return ClassificationSamples.of(self.validation_records, data.evaluation)

    def model(self) -> keras.Model:
        """The recipe's model for its records' classes and its image size.

        Raises:
            UsageError: an option that the model does not take, or weights that do not fit.
        """
        model, data = self.recipe.model, self.recipe.data
        try:
            return tfvt.create_model(
                model.name,
                num_classes=self.train_records.num_classes,
                input_shape=(*data.train.image_size, 3),
                weights=model.weights,
                **model.options,
            )
        except (ValueError, OSError) as error:
            raise UsageError(f"model: {error}") from error

    def loss(self, outputs: Any, batch: Mapping[str, Any], training: bool) -> Any:
        """Soft-max cross entropy (B,), in training with label smoothing and with the soft targets of mixed images."""
        if not training:
            return cross_entropy(batch["label"], outputs, label_smoothing=0.0)
        targets = batch["target"] if "target" in batch else batch["label"]
        return cross_entropy(targets, outputs, self.recipe.label_smoothing)

    def no_sums(self) -> dict[str, np.ndarray]:
        """Zeros for the counts of images whose label ranks first, and among the first five."""
        return {"top1": np.zeros(()), "top5": np.zeros(())}

    def sums(self, outputs: Any, batch: Mapping[str, Any], weights: Any) -> dict[str, Any]:
        """How many labels rank first, and among the first five; of mixed images the label with the largest share."""
        labels = ops.argmax(batch["target"], axis=-1) if "target" in batch else batch["label"]
        ranks = {"top1": 1, "top5": min(5, outputs.shape[-1])}
        hits = {name: ops.cast(ops.in_top_k(labels, outputs, k), "float32") for name, k in ranks.items()}
        return {name: ops.sum(hit * weights) for name, hit in hits.items()}

    def rows(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Of each image its label (-1 if it does not count), the class of the answer, and that class's probability."""
        label = ops.where(batch["weight"] > 0, batch["label"], -1)
        probability = ops.max(ops.softmax(outputs, axis=-1), axis=-1)
        return {"label": label, "predicted": ops.argmax(outputs, axis=-1), "probability": probability}

    def figures(self, sums: Mapping[str, np.ndarray], rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Shares in 0..1."""
        return {name: float(sums[name] / sums["images"]) for name in self.columns}

    def summary(self, figures: Mapping[str, float]) -> str:
        """In per cent."""
        return f"top-1 {figures['top1']:.2%}, top-5 {figures['top5']:.2%}"

    def report(self, rows: Mapping[str, np.ndarray]) -> Sequence[Table | Pictures]:
        """The classes that are confused most, and images with wrong and right answers."""
        class_names = self.validation_records.class_names
        return (worst_classes(rows, class_names), *sample_pictures(rows, class_names))

    def serving(self) -> ClassificationServing:
        """Class names and the evaluation's preprocessing."""
        return ClassificationServing(self.train_records.class_names, self.recipe.data.evaluation)


def cross_entropy(targets: Any, logits: Any, label_smoothing: float) -> Any:
    """Soft-max cross entropy (B,) of `logits` (B, classes) with integer labels (B,) or shares of classes (B, classes).

    Smoothing is linear in the targets: those of mixed images are smoothed as their labels would have been.
    """
    if len(targets.shape) == 1:
        targets = ops.one_hot(targets, logits.shape[-1])
    return keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=label_smoothing)
