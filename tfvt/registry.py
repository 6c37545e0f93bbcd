"""Model names: each is a builder with a row of arguments.

A family registers its table above its builder:

    @register({"resnet18": {"block": "basic", "depths": (2, 2, 2, 2)}, ...})
    def resnet(*, block, depths, num_classes=1000, ...) -> keras.Model: ...

The builder's signature is the only list of options: `create_model`, recipes and the command line read it.
"""

import difflib
import fnmatch
import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras

from tfvt.checks import check_numbers

# Arguments that `create_model` itself takes; everything else in a builder's signature is a family option.
COMMON_ARGUMENTS = ("num_classes", "input_shape", "include_top", "features", "name")


@dataclass(frozen=True)
class Variant:
    """A registered model: its builder, the row of arguments that makes this variant of it, and what it is for."""

    builder: Callable[..., keras.Model]
    row: dict[str, Any]
    task: str = "classification"


_VARIANTS: dict[str, Variant] = {}


def register(table: dict[str, dict[str, Any]], task: str = "classification"):
    """Register one variant per row of `table` (model name -> arguments of the decorated builder), all for `task`."""

    def decorate(builder):
        _VARIANTS.update({name: Variant(builder, row, task) for name, row in table.items()})
        return builder

    return decorate


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell-style `pattern`, sorted: `list_models("vt_*")`."""
    return sorted(fnmatch.filter(_VARIANTS, pattern))


def get_variant(name: str) -> Variant:
    """The builder and arguments of a registered name.

    Raises:
        ValueError: unknown name; the message suggests near ones.
    """
    if name not in _VARIANTS:
        raise ValueError(f"unknown model {name!r}{_nearest(name, _VARIANTS)}; tfvt.list_models() lists all")
    return _VARIANTS[name]


def get_builder(name: str) -> Callable[..., keras.Model]:
    """The builder function of a registered name; its signature types every option of the family."""
    return get_variant(name).builder


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    input_shape: tuple[int | None, int | None, int] | None = None,
    include_top: bool = True,
    features: Iterable[str] | None = None,
    weights: Any = None,
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
        arguments["input_shape"] = tuple(input_shape)
    if features is not None:
        arguments["features"] = features if isinstance(features, str) else tuple(features)
    _check_values(variant.builder, arguments)
    model = variant.builder(**arguments)
    if weights is not None:
        from tfvt.checkpoints import load_checkpoint

        load_checkpoint(model, weights)
    return model


def option_names(name: str) -> list[str]:
    """Names of the family options of a model: what `create_model` takes beyond its own arguments."""
    parameters = inspect.signature(get_builder(name)).parameters
    return [p for p in parameters if p not in COMMON_ARGUMENTS]


def check_options(name: str, options: Iterable[str]) -> None:
    """Raise a ValueError that names the first of `options` which the builder of `name` does not have."""
    allowed = option_names(name)
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{name} has no option {option!r}{_nearest(option, allowed)}; its options are {', '.join(allowed)}"
            )


def _check_values(builder, arguments: dict[str, Any]) -> None:
    """Raise a ValueError that names the first argument outside what its annotation and its range allow."""
    hints = typing.get_type_hints(builder)
    for argument, value in arguments.items():
        kinds = (hints[argument], *typing.get_args(hints[argument]))
        if value is None and type(None) not in kinds:
            raise ValueError(f"{argument}=None: expected a value")
        if bool in kinds and not isinstance(value, bool):
            raise ValueError(f"{argument}={value!r}: expected True or False")
        if value is not None and tuple in map(typing.get_origin, kinds) and not isinstance(value, tuple | list):
            example = " of levels such as ('P3', 'P4')" if argument == "features" else ""
            raise ValueError(f"{argument}={value!r}: expected a sequence{example}")
    check_numbers(arguments)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else ""
