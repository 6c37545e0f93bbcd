"""What a source of checkpoints has to say about itself; each file beside this one makes such descriptions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """One weight in our layout, and the names of the source's tensors that it is made of."""

    names: tuple[str, ...]
    array: np.ndarray


@dataclass(frozen=True)
class Training:
    """How the weights were trained, as far as the source says; None where it does not.

    Attributes:
        gelu: "erf" or "tanh".
        layer_norm_epsilon: of every layer norm.
        pixel_statistics: (mean, standard deviation) per channel, in pixel units.
    """

    gelu: str | None = None
    layer_norm_epsilon: float | None = None
    pixel_statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Format:
    """One family's weights under one source's names.

    Attributes:
        sources: what `load_checkpoint(source=...)` calls it.
        family: of models, for messages.
        anchor: pattern of a name that tells this format from the others.
        first_weight: path of a weight that every model of the family has.
        convert: the source's arrays to {path of our weight: `Tensor`}; names it does not know are left out.
        training: a path or a dict to `Training`.
        ignored: pattern of names that no model needs.
        resample: kernel that the family resizes position embeddings with, see `tfvt.checkpoints.positions`.
    """

    sources: tuple[str, ...]
    family: str
    anchor: str
    first_weight: str
    convert: Callable[[dict[str, np.ndarray]], dict[str, Tensor]]
    training: Callable[[object], Training]
    ignored: str = "(?!)"
    resample: str = "bilinear"
