"""How to describe a source of checkpoints; each file beside this one makes such descriptions."""

from collections.abc import Callable
from dataclasses import dataclass

from tfvt.checkpoints.files import Checkpoint
from tfvt.checkpoints.renaming import Table


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
        anchor: a name that tells this format from the others, written like those of the table's rows.
        first_weight: path of a weight that every model of the family has.
        table: the source's names and layouts.
        training: a path or a dict to `Training`.
        ignored: regular expression of whole names that no model needs.
        resample: kernel that the family resizes position embeddings with, see `tfvt.checkpoints.positions`.
    """

    sources: tuple[str, ...]
    family: str
    anchor: str
    first_weight: str
    table: Table
    training: Callable[[Checkpoint], Training]
    ignored: str = "(?!)"
    resample: str = "bilinear"
