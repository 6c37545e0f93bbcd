"""From the bytes of an image to the classes of its pixels, at the image's own size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.headers import checked_images
from tfvt.data.label_maps import LabelMaps, coarse_model, padded
from tfvt.data.mask_pictures import class_shares, label_map_png, overlay_png
from tfvt.data.records import VOID
from tfvt.data.segmentation import SegmentationEvaluation
from tfvt.data.serving import Serving, read_class_names

MOST_BYTES = 2**31 - 1  # of an answer: what one message of gRPC can hold


@dataclass(frozen=True)
class SegmentationServing(Serving):
    """`Serving` of a model that gives each pixel a class.

    Attributes:
        class_names: one a class, in the order of the labels.
        evaluation: how a whole image becomes probabilities.
    """

    class_names: tuple[str, ...]
    evaluation: SegmentationEvaluation

    picture_endings: ClassVar[tuple[str, ...]] = (".png", "_overlay.png")

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "SegmentationServing":
        """From what JSON holds.

        Raises:
            KeyError, TypeError, ValueError: `content` holds something else.
        """
        names, evaluation = read_class_names(content), content["evaluation"]
        if not isinstance(evaluation, Mapping):
            raise ValueError("evaluation is not a table of settings")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in evaluation.items()}
        return cls(names, SegmentationEvaluation(**values))

    def check(self, model: keras.Model) -> None:
        """Refuse a model of other classes, or one built for a size in which the evaluation does not show images.

        Raises:
            ValueError: it is such a model, or has more classes than a byte can tell from `VOID`.
        """
        classes = coarse_model(model).output_shape[-1]
        if len(self.class_names) != classes:
            raise ValueError(f"{len(self.class_names)} class names for a model with {classes} classes")
        if classes > VOID:
            raise ValueError(f"{classes} classes: a label map holds at most {VOID}")
        size, evaluation = model.input_shape[1:3], self.evaluation
        if None in size:
            return
        shown = evaluation.window
        if evaluation.mode == "whole":
            multiple = evaluation.size_multiple
            longer = max(evaluation.scale or (2**31,)) * max(evaluation.scales)
            shown = (-(-int(longer) // multiple) * multiple,) * 2
        if shown[0] > size[0] or shown[1] > size[1]:
            raise ValueError(
                f"the model was built for images of {size}: evaluate with mode slide and a window of that size"
            )

    def network(self, model: keras.Model) -> keras.Model:
        """The model without its auxiliary head: "logits" (B, H, W, C)."""
        logits = model.output["logits"] if isinstance(model.output, Mapping) else model.output
        return keras.Model(model.inputs, {"logits": logits}, name=model.name)

    def pixels(self, read: Callable) -> tf.Tensor:
        """The whole image, uint8 (H, W, 3)."""
        return read(lambda height, width: (0, 0, height, width))[0]

    def label_maps(self, model: keras.Model) -> LabelMaps:
        """`LabelMaps` of a model, whose part before the last upsampling is compiled once for all sizes."""
        coarse = coarse_model(model)
        forward = padded(lambda images: coarse(images, training=False), model.input_shape[1:3])
        images = tf.TensorSpec((None, None, None, 3), tf.float32)
        return LabelMaps(tf.function(forward, input_signature=[images]), self.evaluation)

    def answers(self, model: keras.Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """From the pixels of an image, uint8 (H, W, 3), to its "label_map", uint8 (H, W)."""
        maps = self.label_maps(model)
        return lambda image: {"label_map": maps(image)}

    def signatures(self, model: keras.Model) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
        """Label maps by default, and "probabilities"; `size` says which part of an answer is the image's.

        - `serving_default`: "label_map" uint8 (B, H, W), `VOID` outside the image, and "size" int32 (B, 2), the
          (height, width) of each image in its upper left corner.
        - `probabilities`: "probabilities" float32 (B, H, W, C), 0 outside the image, and "size".
        """
        maps, classes = self.label_maps(model), len(self.class_names)

        def labels(images):
            found, size = self._each(images, maps, (), tf.constant(VOID, tf.uint8))
            return {"label_map": found, "size": size}

        def probabilities(encoded):
            limit = MOST_BYTES // (4 * classes)  # so that none is made that cannot be sent
            found, size = self._each(checked_images(encoded, limit), maps.probabilities, (classes,), tf.constant(0.0))
            return {"probabilities": found, "size": size}

        return {"serving_default": labels, "probabilities": probabilities}

    def _each(self, images, answer, trailing, fill):
        """answer(image) -> (H, W, *trailing) of all images as one (B, H, W, *trailing), and their sizes (B, 2)."""
        count, shape = tf.shape(images)[0], (None, None, *trailing)
        answers = tf.TensorArray(fill.dtype, count, infer_shape=False, element_shape=shape)
        sizes = tf.TensorArray(tf.int32, count, element_shape=(2,))

        def add(number, answers, sizes):
            found = tf.ensure_shape(answer(self.decode(images[number])), shape)
            return number + 1, answers.write(number, found), sizes.write(number, tf.shape(found)[:2])

        _, answers, sizes = tf.while_loop(
            lambda number, *_: number < count, add, (tf.constant(0), answers, sizes), parallel_iterations=1
        )
        sizes = sizes.stack()
        largest = tf.reduce_max(sizes, 0)
        total = tf.reduce_prod(tf.cast([count, *tf.unstack(largest)], tf.int64))
        total *= fill.dtype.size * int(np.prod(trailing))
        too_much = [
            "the answers, all padded to the height and the width of the largest, take",
            total,
            f"bytes: the limit is {MOST_BYTES}. Send fewer images, or images of like shape, at a time",
        ]
        with tf.control_dependencies([tf.debugging.Assert(total <= MOST_BYTES, too_much)]):
            largest = tf.identity(largest)

        def grown(number):
            missing = [[0, side] for side in tf.unstack(largest - sizes[number])] + [[0, 0]] * len(trailing)
            return tf.pad(answers.read(number), missing, constant_values=fill)

        spec = tf.TensorSpec(shape, fill.dtype)
        return tf.map_fn(grown, tf.range(count), fn_output_signature=spec, parallel_iterations=1), sizes

    def describe(self, answer: Mapping[str, np.ndarray]) -> str:
        """The answer for one image on one line: the five classes with the most pixels, and their shares."""
        shares = class_shares(answer["label_map"])
        more = f" and {len(shares) - 5} more" if len(shares) > 5 else ""
        return ", ".join(f"{self.class_names[index]} {share:.1%}" for index, share in shares[:5]) + more

    def pictures(self, image: np.ndarray, answer: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """The label map with a palette, and the image under its colours with a legend."""
        pictures = (
            label_map_png(answer["label_map"]),
            overlay_png(image, answer["label_map"], self.class_names),
        )
        return dict(zip(self.picture_endings, pictures, strict=True))
