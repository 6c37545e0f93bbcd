"""What a record becomes for a classifier: an image, its label and, where images are mixed, soft targets."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from tfvt.data.images import EvalPreprocessing, TrainPreprocessing, decode_and_augment, decode_and_center_crop
from tfvt.data.mixing import Mixing, mix_batch
from tfvt.data.records import ENCODED, LABEL, UNLABELLED, RecordSet

NO_CLASS, WRONG_CLASS = -1, -2  # in place of labels, until the stream has refused them


@dataclass(frozen=True)
class ClassificationSamples:
    """Images with labels, as `tfvt.data.stream` asks for them.

    A sample is {"image": float32 (H, W, 3) 0..255, "label": int32 () from 0}. A batch whose images are mixed has
    also "target", float32 (B, classes), rows of sum 1; its labels are those of the images before.

    Attributes:
        num_classes: labels are below it.
        label_offset: what the stored labels count from.
        preprocessing: augmentation in training, the centre crop in evaluation.
        mixing: MixUp and CutMix of training batches, among the images of one host; None: neither.
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
        """One image and its label; in place of one that is no class, `NO_CLASS` or `WRONG_CLASS`."""
        if seed is None:
            image = decode_and_center_crop(features[ENCODED], self.preprocessing)
        else:
            image = decode_and_augment(features[ENCODED], seed, self.preprocessing)
        label = features[LABEL] - self.label_offset
        label = tf.where((label >= 0) & (label < self.num_classes), label, WRONG_CLASS)
        label = tf.where(features[LABEL] == UNLABELLED, NO_CLASS, label)
        return {"image": image, "label": tf.cast(label, tf.int32)}

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

    def finish(self, batch: dict[str, tf.Tensor], seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """The batch, in training mixed with itself."""
        if seed is None or self.mixing is None or not self.mixing.enabled:
            return batch
        images, labels = _without_damaged(batch)
        images, targets = mix_batch(images, labels, self.num_classes, seed, self.mixing)
        return batch | {"image": images, "target": targets}


def _without_damaged(batch):
    """Images and labels with a sound image in the place of each damaged one, so that none is mixed with a black one."""
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
