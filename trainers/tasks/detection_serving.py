"""From the bytes of an image to the objects in it, in the image's own pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.box_pictures import boxes_png
from tfvt.data.detection import DetectionEvaluation
from tfvt.data.detections import Detections
from tfvt.data.images import is_integer
from tfvt.data.instance_masks import pasted, run_lengths
from tfvt.data.serving import Serving, read_class_names
from tfvt.models.detection import DetectionSettings, detector

MOST_NAMED = 5  # objects on a line


@dataclass(frozen=True)
class DetectionServing(Serving):
    """`Serving` of a model that finds objects.

    Attributes:
        class_names: one a class, in the order of the labels.
        evaluation: how a whole image becomes detections.
        category_ids: the numbers that the source of the records gave the classes, in the order of the labels; None: it
            gave none, and results have 1 for the first class.
    """

    class_names: tuple[str, ...]
    evaluation: DetectionEvaluation
    category_ids: tuple[int, ...] | None = None

    picture_endings: ClassVar[tuple[str, ...]] = (".png",)
    results_file: ClassVar[str] = "detections.json"

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "DetectionServing":
        """From what JSON holds.

        Raises:
            KeyError, TypeError, ValueError: `content` holds something else.
        """
        names, evaluation, numbers = read_class_names(content), content["evaluation"], content["category_ids"]
        if not isinstance(evaluation, Mapping):
            raise ValueError("evaluation is not a table of settings")
        if numbers is not None:
            if not isinstance(numbers, list) or not all(map(is_integer, numbers)) or len(numbers) != len(names):
                raise ValueError("category_ids are not one number for each class")
            numbers = tuple(numbers)
        return cls(names, DetectionEvaluation(**evaluation), numbers)

    def check(self, model: keras.Model) -> None:
        """Refuse a model of other classes, or one built for images that are smaller than those it is to see.

        Raises:
            ValueError: it is such a model, or no detection model.
        """
        self.detector(model)
        logits = next(value for name, value in model.output.items() if name.startswith("class_logits"))
        classes = logits.shape[-1] - ("rpn_logits" in model.output)  # a second stage has the background, too
        if len(self.class_names) != classes:
            raise ValueError(f"{len(self.class_names)} class names for a model with {classes} classes")
        size, longest = model.input_shape[1:3], self.evaluation.max_long_side
        if None not in size and min(size) < longest:
            raise ValueError(f"the model was built for images of {size}: max_long_side {longest} is more than fits")

    def detector(self, model: keras.Model) -> keras.Model:
        """The model whose outputs are boxes.

        Raises:
            ValueError: no detection model.
        """
        evaluation = self.evaluation
        settings = DetectionSettings(
            evaluation.candidates, evaluation.score_threshold, evaluation.iou_threshold, evaluation.max_detections
        )
        return detector(model, settings)

    def network(self, model: keras.Model) -> keras.Model:
        """The detector."""
        return self.detector(model)

    def pixels(self, read: Callable) -> tf.Tensor:
        """The whole image, uint8 (H, W, 3)."""
        return read(lambda height, width: (0, 0, height, width))[0]

    def detections(self, model: keras.Model) -> Detections:
        """`Detections` of a model, which is compiled once for all sizes."""
        found, size = self.detector(model), model.input_shape[1:3]
        signature = {
            "image": tf.TensorSpec((None, *size, 3), tf.float32),
            "size": tf.TensorSpec((None, 2), tf.int32),
        }
        forward = tf.function(lambda inputs: found(inputs, training=False), input_signature=[signature])
        return Detections(forward, self.evaluation, size)

    def answers(self, model: keras.Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """From the pixels of an image, uint8 (H, W, 3), to its n objects: as `Detections`, without padding."""
        found = self.detections(model)

        def answer(image):
            objects = found(image)
            return {name: value[objects["labels"] >= 0] for name, value in objects.items()}

        return answer

    def signatures(self, model: keras.Model) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
        """The objects of each image, in its own pixels.

        - "boxes" float32 (B, D, 4): y1, x1, y2, x2; "scores" float32 (B, D); "labels" int32 (B, D), -1 where there is
          no further object; "names" string (B, D), "" there.
        - "size" int32 (B, 2): the (height, width) of each image.
        - "masks", of a model that gives such: float32 (B, D, h, w), probabilities within the boxes.
        """
        found, names = self.detections(model), tf.constant([*self.class_names, ""])
        outputs = self.detector(model).output
        specs = {name: tf.TensorSpec(value.shape[1:], value.dtype) for name, value in outputs.items()}
        specs["size"] = tf.TensorSpec((2,), tf.int32)

        def one(image):
            image = self.decode(image)
            return found(image) | {"size": tf.shape(image)[:2]}

        def serve(images):
            # One after the other, each in its own size: no answer depends on what else a request holds.
            answer = tf.map_fn(one, images, fn_output_signature=specs, parallel_iterations=1)
            labels = answer["labels"]
            return answer | {"names": tf.gather(names, tf.where(labels < 0, len(self.class_names), labels))}

        return {"serving_default": serve}

    def describe(self, answer: Mapping[str, np.ndarray]) -> str:
        """The answer for one image on one line: the five best objects and their scores."""
        found = [
            f"{self.class_names[label]} {score:.0%}"
            for label, score in zip(answer["labels"], answer["scores"], strict=True)
        ]
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        return (", ".join(found[:MOST_NAMED]) or "no object") + more

    def pictures(self, image: np.ndarray, answer: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """The image with the boxes of what was found."""
        return {self.picture_endings[0]: boxes_png(image, answer, self.class_names)}

    def results(self, name: str, image: np.ndarray, answer: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """The answer for one image in COCO's format of results.

        Args:
            name: of the image's file, without its ending. Its "image_id" is the number that it is, or else the text.
            image: uint8 (H, W, 3).
            answer: as `answers` gives it.
        """
        size, found = image.shape[:2], []
        for place, label in enumerate(answer["labels"].tolist()):
            y1, x1, y2, x2 = box = answer["boxes"][place]
            found.append(
                {
                    "image_id": int(name) if name.isascii() and name.isdecimal() else name,
                    "category_id": self.category_ids[label] if self.category_ids else label + 1,
                    "bbox": [_shortest(value) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "score": _shortest(answer["scores"][place]),
                }
            )
            if "masks" in answer:
                code = run_lengths(pasted(answer["masks"][place], box, size))
                found[-1]["segmentation"] = {"size": list(size), "counts": code.decode()}
        return found


def _shortest(value):
    """A float32 as the number with the fewest digits that is nearest to it: as exact, and half as long in a file."""
    return float(str(np.float32(value)))
