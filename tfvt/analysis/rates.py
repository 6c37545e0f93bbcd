"""What ACmix layers prefer: the rates of attention and convolution over depth (Pan et al., CVPR 2022, section 5.5)."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tfvt.analysis.pictures import COLORS, as_label, save_figure
from tfvt.layers import ACmix


@dataclass(frozen=True)
class PathRates:
    """The rates of a model's ACmix layers, in their order from image to head.

    Attributes:
        model: the model's name.
        layers: paths of the ACmix layers.
        alpha, beta: of attention and of convolution, (layers,) each; a rate that the combination fixes has that value.
    """

    model: str
    layers: tuple[str, ...]
    alpha: np.ndarray
    beta: np.ndarray

    @property
    def log_ratio(self) -> np.ndarray:
        """Logarithm of |alpha / beta|, (layers,): above 0 where attention weighs more; infinite where one rate is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(np.abs(self.alpha)) - np.log(np.abs(self.beta))

    def __str__(self):
        columns = (self.layers, *(map("{:.4f}".format, values) for values in (self.alpha, self.beta, self.log_ratio)))
        rows = [("layer", "alpha", "beta", "log|alpha/beta|"), *zip(*columns, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        )


def path_rates(model: keras.Model) -> PathRates:
    """Alpha and beta (eq. 13) of every ACmix layer of a model.

    Raises:
        ValueError: the model has no ACmix layer, or layers whose combination has no learned rate.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, ACmix)]
    if not layers:
        raise ValueError(f"{model.name} has no ACmix layer, so it has no rates to show")
    for layer in layers:
        if layer.combine not in ("both", "alpha", "complement"):
            raise ValueError(
                f"{model.name} has no learned rates: its ACmix layers combine their paths by combine={layer.combine!r}"
            )
    rates = [[float(keras.ops.convert_to_numpy(rate)) for rate in layer.rates()] for layer in layers]
    alpha, beta = np.array(rates).T
    return PathRates(model.name, tuple(layer.path for layer in layers), alpha, beta)


def draw_path_rates(runs: dict[str, PathRates], path: Path | str) -> None:
    """Draw |alpha|, |beta| and log |alpha / beta| over depth, as in the paper's Figure 5, and save the picture.

    Args:
        runs: legend -> rates; models of one name share a row of plots, a line each.
        path: where to save, by its ending (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(rates.model for rates in runs.values()))
    figure = Figure(figsize=(11, 3.2 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), 3, squeeze=False)
    titles = ("|α|, attention", "|β|, convolution", "log|α/β|")
    for row, model in zip(axes, models, strict=True):
        for (legend, rates), color in zip(runs.items(), itertools.cycle(COLORS), strict=False):
            if rates.model == model:
                depth = np.arange(1, len(rates.layers) + 1)
                for axis, values in zip(row, (np.abs(rates.alpha), np.abs(rates.beta), rates.log_ratio), strict=True):
                    axis.plot(depth, values, marker="o", markersize=4, color=color, label=as_label(legend))
        for axis, title in zip(row, titles, strict=True):
            axis.set(title=title, xlabel="ACmix layer, from image to head")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
        row[2].axhline(0, color="gray", linewidth=1)  # equal weights
        row[0].set_ylabel(model)
        row[0].legend(fontsize=8)
    save_figure(figure, path)
