"""Models by their registered names, with weights."""

from collections.abc import Iterable
from typing import Any

import keras

from tfvt import models  # noqa: F401 - registers every name
from tfvt.checkpoints import load_checkpoint
from tfvt.checkpoints.files import Checkpoint
from tfvt.registry import check_options, get_variant


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    input_shape: tuple[int | None, int | None, int] | None = None,
    include_top: bool = True,
    features: Iterable[str] | None = None,
    weights: Checkpoint | None = None,
    **overrides: Any,
) -> keras.Model:
    """Build a model by its registered name.

    Args:
        name: one of `list_models()`.
        num_classes: width of the classifier.
        input_shape: (height, width, channels) in pixels; default (224, 224, 3).
        include_top: False returns the pooled embedding (B, C) in place of logits.
        features: levels to return, such as ("P2", "P4"): a dict level -> map (B, H, W, C), no head. Level
            Pn has stride 2**n.
        weights: what `load_checkpoint` takes (a path or a dict of arrays); None for a random start.
        **overrides: any argument of the family's builder: pixel_mean, pixel_std, dropout_rate,
            drop_path_rate, ... and the family's own options.

    Returns:
        A functional `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits (B, num_classes), no soft-max.

    Raises:
        ValueError: unknown name, unknown option or a value that the builder cannot take. The message names
            the argument and the allowed values.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "tfvt models are channels-last (B, H, W, C): call keras.config.set_image_data_format('channels_last')"
        )
    variant = get_variant(name)
    check_options(name, overrides)
    arguments = dict(variant.row)
    arguments.update(include_top=include_top, name=name, **overrides)
    if include_top and features is None:
        arguments["num_classes"] = num_classes
    if input_shape is not None:
        arguments["input_shape"] = _as_tuple(input_shape)
    if features is not None:
        arguments["features"] = _as_tuple(features)
    model = variant.builder(**arguments)
    if weights is not None:
        load_checkpoint(model, weights)
    return model


def _as_tuple(value):
    """Any iterable as the tuple that builders take; what is none is theirs to refuse."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
