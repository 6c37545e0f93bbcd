"""Models by their registered names, with weights."""

from collections.abc import Iterable
from typing import Any

import keras

from tfvt import models  # noqa: F401 - registers every name
from tfvt.checkpoints import load_checkpoint
from tfvt.checkpoints.files import Checkpoint
from tfvt.pretrained import COMMON, LOCAL_DIR, read_pretrained
from tfvt.registry import check_options, get_variant


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    include_top: bool = True,
    features: Iterable[str] | None = None,
    weights: Checkpoint | None = None,
    **overrides: Any,
) -> keras.Model:
    """Build a model by its registered name.

    Args:
        name: one of `list_models()`; or "local-dir:FOLDER", the model and weights of a folder of config.json and
            model.safetensors, of timm or `save_pretrained`. The other arguments then replace what its config says.
        num_classes: width of the classifier; default 1000, or as the folder says. Another number leaves it fresh.
        input_shape: (height, width, channels) in pixels; default (224, 224, 3), or as the folder says.
        include_top: False returns the pooled embedding (B, C) in place of logits.
        features: levels to return, such as ("P2", "P4"): a dict level -> map (B, H, W, C), no head. Level
            Pn has stride 2**n.
        weights: what `load_checkpoint` takes (a path or a dict of arrays); None for a random start, or the folder's.
        **overrides: any argument of the family's builder: pixel_mean, pixel_std, dropout_rate,
            drop_path_rate, ... and the family's own options.

    Returns:
        A functional `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits (B, num_classes), no soft-max.

    Raises:
        ValueError: unknown name, unknown option or a value that the builder cannot take. The message names
            the argument and the allowed values. Of a folder: what is damaged, unknown or contradicts itself.
        OSError: a file that is missing.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "tfvt models are channels-last (B, H, W, C): call keras.config.set_image_data_format('channels_last')"
        )
    if name.startswith(LOCAL_DIR):
        given = {"num_classes": num_classes, "input_shape": input_shape, "features": features, "weights": weights}
        given = {key: value for key, value in given.items() if value is not None} | overrides
        return _from_folder(name.removeprefix(LOCAL_DIR), given if include_top else given | {"include_top": False})
    variant = get_variant(name)
    check_options(name, overrides)
    arguments = dict(variant.row)
    arguments.update(include_top=include_top, name=name, **overrides)
    if include_top and features is None:
        arguments["num_classes"] = 1000 if num_classes is None else num_classes
    if input_shape is not None:
        arguments["input_shape"] = _as_tuple(input_shape)
    if features is not None:
        arguments["features"] = _as_tuple(features)
    model = variant.builder(**arguments)
    if weights is not None:
        load_checkpoint(model, weights)
    return model


def _from_folder(folder, given):
    """The model of a folder; `given` replaces what its config.json says."""
    pretrained = read_pretrained(folder)
    check_options(pretrained.name, set(given) - {*COMMON, "num_classes", "weights"})
    weights = given.pop("weights", None)
    if "num_classes" in given:  # a fresh head, if the folder has none
        pretrained.arguments.pop("include_top", None)
    try:
        model = create_model(pretrained.name, **pretrained.arguments | given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{pretrained.config}: {error}") from error
    if weights is not None:
        load_checkpoint(model, weights)
        return model
    pretrained.check_built(model)
    try:
        report = load_checkpoint(model, pretrained.folder)
    except ValueError as error:
        raise ValueError(f"{pretrained.config}: architecture={pretrained.architecture!r}: {error}") from error
    pretrained.check_loaded(report, given)
    return model


def _as_tuple(value):
    """Any iterable as the tuple that builders take; what is none is theirs to refuse."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
