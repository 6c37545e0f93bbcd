"""What a task does around its model when it serves: from the bytes of an image to an answer."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.exif import decode_upright
from tfvt.data.images import pixel_window


def read_class_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The "class_names" of what JSON holds of a `Serving`.

    Raises:
        KeyError, ValueError: there is none, or it is something else than a list of names.
    """
    names = content["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is not a list of names")
    return tuple(names)


class Serving(Protocol):
    """From the bytes of an image to an answer.

    A dataclass of plain values: `from_plain` reads what JSON holds of it.

    Attributes:
        class_names: in the order of the labels; () where answers name no classes.
        picture_endings: of the files that `pictures` makes of an answer; () where there are none.
        results_file: the name of a JSON file with the `results` of all images, beside their pictures; None: no file.
    """

    class_names: tuple[str, ...]
    picture_endings: ClassVar[tuple[str, ...]] = ()
    results_file: ClassVar[str | None] = None

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Serving":
        """From what JSON holds.

        Raises:
            KeyError, TypeError, ValueError: `content` holds something else.
        """

    def check(self, model: keras.Model) -> None:
        """Raise a ValueError if the model does not match this object."""

    def network(self, model: keras.Model) -> keras.Model:
        """What other runtimes than TensorFlow run of the model: from pixels, 0..255, to tensors by name.

        By default the model itself, whose output is called "logits".
        """
        return keras.Model(model.inputs, {"logits": model.output}, name=model.name)

    def pixels(self, read: Callable) -> tf.Tensor:
        """What `answers` takes of an image: pixels (H, W, 3), 0..255; graph code.

        Args:
            read: gives the part of the image that a window shows, as `tfvt.data.images.decode_window` of its bytes.
        """

    def decode(self, image: tf.Tensor) -> tf.Tensor:
        """The `pixels` of an image: of a file, a scalar string, upright as its EXIF header says; or of uint8 (H, W, 3).

        Raises:
            tf.errors.InvalidArgumentError: the bytes are not an image, or are a JPEG that ends early.
        """
        read = decode_upright if image.dtype == tf.string else pixel_window
        return self.pixels(lambda window: read(image, window))

    def answers(self, model: keras.Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """A function from the pixels of one image to its answer by name."""

    def signatures(self, model: keras.Model) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
        """What clients may ask for, by name, one of them "serving_default"; graph code.

        Each is a function from images that `tfvt.data.headers` has checked to their answers. The images are files,
        string (B,); for "serving_default" also uint8 (B, H, W, 3).
        """

    def describe(self, answer: Mapping[str, np.ndarray]) -> str:
        """The answer for one image on one line, for people."""

    def pictures(self, image: np.ndarray, answer: Mapping[str, np.ndarray]) -> dict[str, bytes]:
        """The answer for one image as PNG files, by their `picture_endings`."""
        return {}

    def results(self, name: str, image: np.ndarray, answer: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """What `results_file` lists of one image, as JSON holds it; `name` is its file's, without the ending."""
        return []


class OneSizeServing(Serving, Protocol):
    """`Serving` of a model that takes all images at one size, several at a time.

    Attributes:
        image_size: (height, width) that `decode` gives.
    """

    image_size: tuple[int, int]

    def answer(self, outputs: Any) -> dict[str, tf.Tensor]:
        """The answer to a client, (B, ...) by name, from the model's outputs for B images; graph code."""

    def answers(self, model: keras.Model) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """From the pixels of one image, float32 (H, W, 3)."""

        def answer(image):
            return {name: value[0] for name, value in self.answer(model(image[None], training=False)).items()}

        return answer

    def signatures(self, model: keras.Model) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
        """`answer` as "serving_default", and, of a model with a layer "head", "features": float32 (B, C).

        These are what the head reads, the embedding of an image.

        Raises:
            ValueError: the model takes images of another size.
        """
        size = tuple(model.input_shape[1:3])
        if any(side not in (None, expected) for side, expected in zip(size, self.image_size, strict=True)):
            raise ValueError(f"the model takes images of {size}, preprocessing.image_size is {self.image_size}")

        def pixels(images):
            return tf.map_fn(
                self.decode,
                images,
                fn_output_signature=tf.TensorSpec((*self.image_size, 3), tf.float32),
                parallel_iterations=1,  # n would decode n images at once
            )

        signatures = {"serving_default": lambda images: self.answer(model(pixels(images), training=False))}
        if any(layer.name == "head" for layer in model.layers):
            embed = keras.Model(model.input, model.get_layer("head").input)
            signatures["features"] = lambda images: {
                "features": tf.cast(embed(pixels(images), training=False), tf.float32)
            }
        return signatures
