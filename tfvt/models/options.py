"""Options that model families share: parts that travel whole, and the decorator that spells them out for the caller.

    @register(VARIANTS)
    @spell_out
    def resnet(*, trunk: ResNetOptions, head: Head, name: str | None = None) -> keras.Model: ...

    resnet(block="basic", depths=(2, 2), num_classes=10)  # block and depths of `ResNetOptions`, num_classes of `Head`

Signature, annotations and docstring of the decorated builder list every field, so `create_model`, recipes and the
command line read them as arguments of the builder's own.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from tfvt.checks import check_arguments, plain
from tfvt.layers.acmix import Combine, Shift

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # per channel R, G, B, in pixel units
IMAGENET_STD = (58.395, 57.12, 57.375)


class Options:
    """The base of dataclasses whose fields are arguments of builders."""


@dataclass(frozen=True)
class Pixels(Options):
    """How a model normalises its input.

    Args:
        pixel_mean, pixel_std: per channel, in pixel units; pixel_mean=None takes normalised floats.
    """

    pixel_mean: tuple[float, ...] | None = IMAGENET_MEAN
    pixel_std: tuple[float, ...] | None = IMAGENET_STD


@dataclass(frozen=True)
class Head(Options):
    """What a model returns.

    Args:
        num_classes: width of the classifier.
        include_top: False returns the pooled embedding (B, C).
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P2" to "P5" (strides 4 to 32).
        dropout_rate: on the embedding, before the classifier.
    """

    num_classes: int = 1000
    include_top: bool = True
    features: tuple[str, ...] | None = None
    dropout_rate: float = 0.0


@dataclass(frozen=True)
class BatchNorm(Options):
    """The batch norms of a network.

    Args:
        batch_norm_epsilon, batch_norm_momentum: of every batch norm.
        synchronized_batch_norm: statistics over the whole batch where TensorFlow's strategies split it over devices;
            JAX computes them so in any case.
    """

    batch_norm_epsilon: float = 1e-5
    batch_norm_momentum: float = 0.9
    synchronized_batch_norm: bool = False

    def keras_arguments(self) -> dict[str, Any]:
        """Arguments of `keras.layers.BatchNormalization`."""
        arguments = {"epsilon": self.batch_norm_epsilon, "momentum": self.batch_norm_momentum}
        # Backends other than TensorFlow refuse the flag.
        synchronized = self.synchronized_batch_norm and keras.backend.backend() == "tensorflow"
        return arguments | ({"synchronized": True} if synchronized else {})


@dataclass(frozen=True)
class Mixing(Options):
    """How every ACmix of a network shifts and combines.

    Args:
        shift, combine: of every ACmix, see `tfvt.layers.ACmix`.
    """

    shift: Shift = "learned"
    combine: Combine = "both"


def spell_out(builder: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    """Give `builder` the fields of its `Options` as keyword arguments, and check every argument before it builds.

    The docstring of the builder describes a field itself where the description of the part does not fit.

    Raises (the decorated builder):
        TypeError: an unknown argument, or a missing one.
        ValueError: a value outside what its type and `tfvt.checks.RANGES` allow; the message names it.
    """
    parts, parameters, described = {}, [], _described(builder.__doc__)
    for parameter in inspect.signature(builder).parameters.values():
        if not (isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Options)):
            parameters.append(parameter)
            continue
        part = parts[parameter.name] = parameter.annotation
        described = _described(part.__doc__) | described
        for field in dataclasses.fields(part):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            parameters.append(parameter.replace(name=field.name, default=default, annotation=field.type))
    signature = inspect.Signature(parameters, return_annotation=keras.Model)
    hints = {parameter.name: parameter.annotation for parameter in parameters}

    @functools.wraps(builder)
    def build(**arguments):
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise TypeError(f"{builder.__name__}() {error}") from None
        arguments = {name: plain(value) for name, value in arguments.items()}
        check_arguments(hints, arguments)
        for name, part in parts.items():
            given = [field.name for field in dataclasses.fields(part) if field.name in arguments]
            arguments[name] = part(**{field: arguments.pop(field) for field in given})
        return builder(**arguments)

    build.__signature__ = signature
    build.__annotations__ = hints | {"return": keras.Model}
    entries = dict.fromkeys(described[name] for name in hints)  # an entry of several names appears once
    before, after = re.split(r"Args:\n(?:    .*\n)+", inspect.cleandoc(builder.__doc__) + "\n")
    build.__doc__ = f"{before}Args:\n{''.join(entries)}{after}"
    return build


def _described(docstring):
    """Argument -> its entry in the `Args:` of a docstring, which may describe several arguments."""
    (section,) = re.findall(r"Args:\n((?:    .*\n)+)", inspect.cleandoc(docstring) + "\n")
    entries = re.findall(r"^    \S.*\n(?:     .*\n)*", section, re.MULTILINE)
    return {name: entry for entry in entries for name in entry.partition(":")[0].strip().split(", ")}
