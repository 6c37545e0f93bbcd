"""A task of another kind than classification: the mean colour of an image."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from keras import ops

import tfvt
from tfvt.data.images import EvalPreprocessing, decode_and_augment, decode_and_center_crop
from tfvt.data.records import ENCODED
from tfvt.trainers.tasks.classification import ClassificationRecipe
from tfvt.trainers.tasks.task import open_split


@dataclass(frozen=True)
class ColourSamples:
    """{"image", "colour" (3,) in 0..1}."""

    data: object
    features = (ENCODED,)

    def decode(self, features, seed):
        encoded, data = features[ENCODED], self.data
        crop = decode_and_center_crop(encoded, data.evaluation)
        image = crop if seed is None else decode_and_augment(encoded, seed, data.train)
        return {"image": image, "colour": tf.reduce_mean(crop, axis=(0, 1)) / 255}

    def blank(self):
        return {"image": tf.zeros((*self.data.evaluation.image_size, 3)), "colour": tf.zeros(3)}

    def faults(self, batch):
        return {}

    def finish(self, batch, seed):
        return batch


@dataclass(frozen=True)
class ColourServing:
    """From the bytes of an image to its colour."""

    image_size: tuple[int, int]
    class_names = ()

    @classmethod
    def from_plain(cls, content):
        return cls(tuple(content["image_size"]))

    def check(self, model):
        """Any model will do."""

    def decode(self, encoded):
        return decode_and_center_crop(encoded, EvalPreprocessing(self.image_size, crop_ratio=1.0))

    def answer(self, outputs):
        return {"colour": outputs}

    def describe(self, answer):
        return "rgb " + " ".join(f"{value:.2f}" for value in answer["colour"])


class MeanColour:
    """`Task`: the mean squared error of three numbers, and the mean absolute one as its figure."""

    recipe_class, serving_class, columns = ClassificationRecipe, ColourServing, ("error", "worst")

    def __init__(self, recipe):
        self.recipe = recipe
        self.train_records = open_split(recipe.data, recipe.data.train_split)
        self.validation_records = open_split(recipe.data, recipe.data.validation_split)

    def samples(self, training):
        return ColourSamples(self.recipe.data)

    def model(self):
        size = self.recipe.data.train.image_size
        return tfvt.create_model(self.recipe.model.name, num_classes=3, input_shape=(*size, 3))

    def loss(self, outputs, batch, training):
        return ops.mean(ops.square(outputs - batch["colour"]), axis=-1)

    def no_sums(self):
        return {"error": np.zeros(())}

    def sums(self, outputs, batch, weights):
        return {"error": ops.sum(weights * ops.mean(ops.abs(outputs - batch["colour"]), axis=-1))}

    def rows(self, outputs, batch):
        return {"error": ops.max(ops.abs(outputs - batch["colour"]), axis=-1) * batch["weight"]}

    def figures(self, sums, rows):
        worst = max((float(row["error"].max()) for row in rows), default=float("nan"))
        return {"error": float(sums["error"] / sums["images"]), "worst": worst}

    def summary(self, figures):
        return f"error {figures['error']:.4f}"

    def serving(self):
        return ColourServing(self.recipe.data.evaluation.image_size)
