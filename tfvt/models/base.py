"""What all families share: they take pixels, check them, and return logits, an embedding or a pyramid."""

import re
from collections.abc import Sequence
from typing import Protocol

import keras

from tfvt.checks import check_choice
from tfvt.layers.initializers import Start
from tfvt.models.options import Head, Pixels

# The layers that belong to a task, by the word that begins their names ("vt1_tokenizer": vt, a token module); all
# others are the trunk's, which a model of another task can take over. Those of the head fit one number of classes.
HEAD_LAYERS = ("head", "pre_logits")
TASK_LAYERS = (*HEAD_LAYERS, "neck", "decoder", "vt")


class Trunk(Protocol):
    """A network that makes a pyramid of maps of an image."""

    def __call__(self, x: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        """Level -> map (B, H, W, C), of a normalised image; more entries may follow for `embed`."""

    def level_names(self) -> Sequence[str]:
        """The levels in order."""

    def embed(self, levels: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
        """The embedding (B, C) that the classifier reads, of what the call gave."""

    def head_start(self, channels: int) -> Start:
        """How a classifier of that many channels starts, see `tfvt.layers.initializers`."""


def task_layer(path: str) -> str | None:
    """The one of `TASK_LAYERS` that the weight at `path` belongs to; None for the trunk's."""
    match = re.match(rf"({'|'.join(TASK_LAYERS)})\d*[_/]", path)
    return match and match[1]


def trunk_stage(path: str) -> str | None:
    """The stage of the trunk, such as "stage3", that the weight at `path` belongs to; None outside the stages."""
    stage = path.partition("_")[0]
    return stage if stage.startswith("stage") else None


def image_input(
    input_shape: tuple[int | None, int | None, int], *, minimum: int, pixels: Pixels
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The model's input and the same pixels, normalised.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        minimum: smallest height and width that the network can take, in pixels.
        pixels: `Pixels`, one value per channel.

    Returns:
        (input tensor, normalised tensor), both (B, H, W, C).

    Raises:
        ValueError: a shape that is too small, or whose channels do not match the statistics.
    """
    if len(input_shape) != 3:
        raise ValueError(f"input_shape={input_shape}: expected (height, width, channels)")
    *size, channels = input_shape
    for side, length in zip(("height", "width"), size, strict=True):
        if length is not None and length < minimum:
            raise ValueError(f"input_shape={input_shape}: {side} {length} is below {minimum}, the least it can take")
    if channels is None:
        raise ValueError(f"input_shape={input_shape}: expected a number of channels")
    inputs = keras.Input(input_shape, name="image")
    if pixels.pixel_mean is None:
        return inputs, inputs
    for argument, values in vars(pixels).items():
        if values is None or len(values) != channels:
            raise ValueError(
                f"input_shape={input_shape} has {channels} channel(s), {argument}={values}: expected "
                f"{channels} value(s), or pixel_mean=None for inputs that are normalised already"
            )
    # In float32 under every policy: half precision would round the pixels before they are centred.
    normalize = keras.layers.Rescaling(
        scale=[1 / s for s in pixels.pixel_std],
        offset=[-m / s for m, s in zip(pixels.pixel_mean, pixels.pixel_std, strict=True)],
        dtype="float32",
        name="normalize",
    )
    return inputs, normalize(inputs)


def check_features(features: Sequence[str], available: Sequence[str]) -> None:
    """Raise a ValueError that names the `available` levels unless `features` are some of them, each once."""
    if not features or len(set(features)) != len(features):
        raise ValueError(f"features={features}: expected one or more of {', '.join(available)}, each once")
    for level in features:
        check_choice("features", level, available)


def classifier(embedding: keras.KerasTensor, head: Head, start: Start | None = None) -> keras.KerasTensor:
    """Dropout and the dense classifier on an embedding (B, C): logits (B, num_classes), float32.

    Args:
        embedding: (B, C).
        head: `Head`.
        start: initializers, see `tfvt.layers.initializers`; None: Glorot and zeros.
    """
    if head.dropout_rate:
        embedding = keras.layers.Dropout(head.dropout_rate, name="head_dropout")(embedding)
    return keras.layers.Dense(int(head.num_classes), dtype="float32", name="head", **(start or {}))(embedding)


def pyramid_model(
    inputs: keras.KerasTensor, x: keras.KerasTensor, trunk: Trunk, head: Head, name: str | None
) -> keras.Model:
    """The model of a trunk that gives a pyramid of maps.

    Args:
        inputs, x: what `image_input` gives.
        trunk: called on `x`.
        head: what the model returns.
        name: of the model.
    """
    if head.features is not None:
        check_features(head.features, trunk.level_names())
    levels = trunk(x)
    if head.features is not None:
        return keras.Model(inputs, {level: levels[level] for level in head.features}, name=name)
    x = trunk.embed(levels)
    if head.include_top:
        x = classifier(x, head, trunk.head_start(x.shape[-1]))
    return keras.Model(inputs, x, name=name)
