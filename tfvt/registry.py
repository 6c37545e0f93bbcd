"""Model names: each is a builder with a row of arguments.

A family registers its table above its builder:

    @register({"resnet18": {"block": "basic", "depths": (2, 2, 2, 2)}, ...})
    def resnet(*, block, depths, num_classes=1000, ...) -> keras.Model: ...

The builder's signature is the only list of options: `create_model`, recipes and the command line read it.
"""

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras

# Arguments that `tfvt.create_model` itself takes; everything else in a builder's signature is a family option.
COMMON_ARGUMENTS = ("num_classes", "input_shape", "include_top", "features", "name")


@dataclass(frozen=True)
class Variant:
    """A registered model: its builder, the row of arguments that makes this variant of it, and what it is for."""

    builder: Callable[..., keras.Model]
    row: dict[str, Any]
    task: str = "classification"


_VARIANTS: dict[str, Variant] = {}


def register(
    table: dict[str, dict[str, Any]], task: str = "classification"
) -> Callable[[Callable[..., keras.Model]], Callable[..., keras.Model]]:
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


def option_names(name: str) -> list[str]:
    """Names of the family options of a model: what `create_model` takes beyond its own arguments."""
    parameters = inspect.signature(get_variant(name).builder).parameters
    return [p for p in parameters if p not in COMMON_ARGUMENTS]


def check_options(name: str, options: Iterable[str]) -> None:
    """Raise a ValueError that names the first of `options` which the builder of `name` does not have."""
    allowed = option_names(name)
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{name} has no option {option!r}{_nearest(option, allowed)}; its options are {', '.join(allowed)}"
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else ""
