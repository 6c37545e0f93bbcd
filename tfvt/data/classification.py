"""Classification: records become images with labels, and logits become class names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.images import (
    EvalPreprocessing,
    TrainPreprocessing,
    center_crop,
    decode_and_augment,
    decode_and_center_crop,
)
from tfvt.data.mixing import Mixing, mix_batch
from tfvt.data.order import HostShare
from tfvt.data.records import ENCODED, LABEL, UNLABELLED, RecordSet
from tfvt.data.serving import OneSizeServing, read_class_names

NO_CLASS, WRONG_CLASS = -1, -2  # in place of labels, until the stream refuses them


@dataclass(frozen=True)
class ClassificationSamples:
    """Images with labels, as `tfvt.data.stream` asks for them.

    A sample is {"image": float32 (H, W, 3) 0..255, "label": int32 () from 0}. A batch of mixed images also has
    "target", float32 (B, classes), rows of sum 1; its labels are those of the images before mixing.

    Attributes:
        num_classes: labels are below it.
        label_offset: what the stored labels count from.
        preprocessing: augmentation in training, the centre crop in evaluation.
        mixing: MixUp and CutMix of training batches; None: neither.
    """

    num_classes: int
    label_offset: int
    preprocessing: TrainPreprocessing | EvalPreprocessing
    mixing: Mixing | None = None

    features: ClassVar[tuple[str, ...]] = (ENCODED, LABEL)

    @classmethod
    def of(
        cls, records: RecordSet, preprocessing: TrainPreprocessing | EvalPreprocessing, mixing: Mixing | None = None
    ) -> "ClassificationSamples":
        """The samples of a set of records."""
        return cls(records.num_classes, records.label_offset, preprocessing, mixing)

    def decode(self, features: dict[str, tf.Tensor], seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """One image and its label; in place of a label that is not a class, `NO_CLASS` or `WRONG_CLASS`."""
        if seed is None:
            image = decode_and_center_crop(features[ENCODED], self.preprocessing)
        else:
            image = decode_and_augment(features[ENCODED], seed, self.preprocessing)
        label = features[LABEL] - self.label_offset
        is_class = (label >= 0) & (label < self.num_classes)
        otherwise = tf.where(features[LABEL] == UNLABELLED, NO_CLASS, WRONG_CLASS)
        return {"image": image, "label": tf.where(is_class, tf.cast(label, tf.int32), otherwise)}

    def blank(self) -> dict[str, tf.Tensor]:
        """A black image of the first class."""
        return {"image": tf.zeros((*self.preprocessing.image_size, 3)), "label": tf.constant(0)}

    def faults(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Labels outside the class list."""
        last = self.label_offset + self.num_classes - 1
        return {
            "has no class (label -1), as images with masks and test images have none: classification needs one": (
                batch["label"] == NO_CLASS
            ),
            f"has a label that is not from {self.label_offset} to {last}, as the manifest says": (
                batch["label"] == WRONG_CLASS
            ),
        }

    def finish(self, batch: dict[str, tf.Tensor], seed: tf.Tensor | None, share: HostShare) -> dict[str, tf.Tensor]:
        """The batch; in training, mixed with itself."""
        if seed is None or self.mixing is None or not self.mixing.enabled:
            return batch
        images, labels = _without_damaged(batch)
        images, targets = mix_batch(images, labels, self.num_classes, seed, self.mixing, share)
        return batch | {"image": images, "target": targets}


def _without_damaged(batch):
    """Images and labels with a sound image in place of each damaged one, so that no image is mixed with a black one."""
    images, labels = batch["image"], batch["label"]
    if "weight" not in batch:
        return images, labels
    weights = batch["weight"]
    sound = tf.where(weights > 0, tf.range(tf.size(weights)), tf.argmax(weights, output_type=tf.int32))
    return tf.cond(
        tf.reduce_all(weights > 0),
        lambda: (images, labels),
        lambda: (tf.gather(images, sound), tf.gather(labels, sound)),
    )


@dataclass(frozen=True)
class ClassificationServing(OneSizeServing):
    """From the bytes of an image to class names, as `tfvt.export` asks for it.

    Attributes:
        class_names: one a class, in the order of the labels.
        preprocessing: the evaluation's, with the size that the model was built for.
    """

    class_names: tuple[str, ...]
    preprocessing: EvalPreprocessing

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "ClassificationServing":
        """From what JSON holds.

        Raises:
            KeyError, TypeError, ValueError: `content` holds something else.
        """
        names, preprocessing = read_class_names(content), content["preprocessing"]
        height, width = preprocessing["image_size"]
        if not isinstance(height, int) or not isinstance(width, int):
            raise ValueError("image_size is not a pair of whole numbers")
        return cls(names, EvalPreprocessing(**preprocessing | {"image_size": (height, width)}))

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that the model takes."""
        return self.preprocessing.image_size

    def check(self, model: keras.Model) -> None:
        """Refuse a model of other classes.

        Raises:
            ValueError: its number of classes is another.
        """
        if len(self.class_names) != model.output_shape[-1]:
            raise ValueError(f"{len(self.class_names)} class names for a model with {model.output_shape[-1]} classes")

    def pixels(self, read: Callable) -> tf.Tensor:
        """The evaluation's crop, float32 (H, W, 3)."""
        return center_crop(read, self.preprocessing)

    def answer(self, outputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """From logits (B, classes): "label" int64 (B,) from 0, "name" string (B,), "probabilities" (B, classes)."""
        probabilities = tf.nn.softmax(tf.cast(outputs, tf.float32))
        label = tf.argmax(probabilities, axis=-1)
        return {"label": label, "name": tf.gather(tf.constant(self.class_names), label), "probabilities": probabilities}

    def describe(self, answer: Mapping[str, np.ndarray]) -> str:
        """The answer for one image on one line: the five most probable classes."""
        probabilities = answer["probabilities"]
        best = np.argsort(-probabilities, kind="stable")[:5]
        return ", ".join(f"{self.class_names[index]} {probabilities[index]:.2%}" for index in best)
