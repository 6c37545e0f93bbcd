"""Pictures of what `tfvt.analysis` finds, in colours that people with any colour vision tell apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfvt.analysis.attention import ForegroundSums
from tfvt.analysis.intermediate import stride_of

COLOR_MAP = "viridis"  # lightness rises with the value
# Okabe and Ito's colours, without yellow, which is hard to see on white; with the dashes no two lines look alike.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "os^Dv<>"
CELL, LINE, GAP, MARGIN = 1.15, 0.14, 0.12, 0.12  # of pictures of maps, in inches
DPI = 110


@dataclass(frozen=True)
class MapRow:
    """An image and maps of it, side by side.

    Attributes:
        image: (H, W, 3), 0..255.
        title: of the image.
        maps: title -> (h, w), over the whole image.
    """

    image: np.ndarray
    title: str
    maps: Mapping[str, np.ndarray]


def draw_maps(rows: Sequence[MapRow], unit: str, path: Path | str, overlay: bool = True, columns: int = 8) -> None:
    """Draw images with maps beside them, each map in its own range from 0 to its maximum, and save the picture.

    Args:
        rows: what to draw.
        unit: what the maps hold, for the legend of the colours.
        path: where to save, by its ending (.png, .svg, .pdf).
        overlay: draw maps over the image in grey; False: alone.
        columns: maps side by side; what is more goes below.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    columns = min(columns, max(len(row.maps) for row in rows))
    heights = [CELL * row.image.shape[0] / row.image.shape[1] for row in rows]
    lines = [-(-len(row.maps) // columns) for row in rows]
    above = LINE * max(title.count("\n") + 1 for row in rows for title in (row.title, *row.maps))
    width = max(2 * MARGIN + (columns + 1) * (CELL + GAP), 4.2)
    height = sum(n * (h + above + GAP) for n, h in zip(lines, heights, strict=True)) + 0.75
    figure = Figure(figsize=(width, height))

    def axes(column, top, high):
        place = (MARGIN + column * (CELL + GAP), height - top - above - high, CELL, high)
        axis = figure.add_axes([part / whole for part, whole in zip(place, (width, height) * 2, strict=True)])
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        return axis

    top = 0.05
    for row, high, count in zip(rows, heights, lines, strict=True):
        axis = axes(0, top, high)
        axis.imshow(row.image.astype("uint8"))
        _title(axis, row.title)
        for number, (title, values) in enumerate(row.maps.items()):
            axis = axes(1 + number % columns, top + number // columns * (high + above + GAP), high)
            _show(axis, row.image, values, overlay)
            _title(axis, title)
        top += count * (high + above + GAP)
    bar = figure.add_axes([MARGIN / width, 0.36 / height, min(3.2, width - 2 * MARGIN) / width, 0.12 / height])
    figure.colorbar(ScalarMappable(cmap=COLOR_MAP), cax=bar, orientation="horizontal", ticks=(0, 0.5, 1))
    bar.tick_params(labelsize=7, length=2, pad=1)
    bar.set_xlabel(f"{unit}, as a part of the largest in its map", fontsize=7, labelpad=1, loc="left")
    save_figure(figure, path)


def save_figure(figure: Any, path: Path | str) -> None:
    """Save a figure of matplotlib in which a "$" in the names of files, runs and classes begins no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(path, dpi=DPI)


def as_label(name: str) -> str:
    """A name for a legend, from which matplotlib leaves out what begins with "_"."""
    return f" {name}" if name.startswith("_") else name


def _title(axis, text):
    axis.set_title(text, fontsize=7, pad=2.5)


def _show(axis, image, values, overlay):
    """A map over the image that it is of: cells at the end may jut out."""
    height, width = image.shape[:2]
    rows, columns = values.shape
    down, right = stride_of(height, rows) * rows, stride_of(width, columns) * columns
    if overlay:
        axis.imshow(np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1) / 255)
    axis.imshow(
        values,
        cmap=COLOR_MAP,
        alpha=0.65 if overlay else 1,
        interpolation="bilinear" if overlay else "nearest",
        extent=(-0.5, right - 0.5, down - 0.5, -0.5),
        vmin=0,
        vmax=max(float(np.max(values)), 1e-30),
    )
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="auto")


def draw_token_attention(
    images: np.ndarray, attention: np.ndarray, path: Path | str, titles: Sequence[str] | None = None
) -> None:
    """Draw each token's attention over each image, as in the paper's Figure 6, and save the picture.

    Args:
        images: (B, H, W, 3), 0..255: one row each.
        attention: (B, h, w, L): one column a token, beside the image; each scaled to its own maximum.
        path: where to save, by its ending (.png, .svg, .pdf).
        titles: one a row, such as the predicted class.
    """
    rows = [
        MapRow(image, title, {f"token {token + 1}": maps[..., token] for token in range(maps.shape[-1])})
        for image, title, maps in zip(images, titles or ["image"] * len(images), attention, strict=True)
    ]
    draw_maps(rows, "attention", path, columns=attention.shape[-1])


def draw_localness(models: Mapping[str, tuple[Mapping[str, np.ndarray], Sequence[float]]], path: Path | str) -> None:
    """Draw how local attention is over depth: mean and standard deviation over heads (VT, Figure 5).

    Args:
        models: legend -> what `localness` gives.
        path: where to save, by its ending (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    for (legend, (layers, uniform)), style in zip(models.items(), _styles(), strict=False):
        legend = as_label(legend)
        mean, deviation = (np.array([getattr(heads, of)() for heads in layers.values()]) for of in ("mean", "std"))
        depth = np.arange(1, len(mean) + 1)
        axis.plot(depth, mean, markersize=4, label=legend, **style)
        axis.fill_between(depth, mean - deviation, mean + deviation, color=style["color"], alpha=0.18, linewidth=0)
        axis.plot(depth, uniform, color=style["color"], linestyle=":", linewidth=1, label=f"{legend}, if uniform")
    axis.set(
        xlabel="layer, from image to head", ylabel="share of attention in the 3x3 around the query", ylim=(0, None)
    )
    axis.set_title("mean (line) and standard deviation (band) over heads", fontsize=9)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)


def draw_foreground_ratios(tokenizers: Mapping[str, ForegroundSums], path: Path | str) -> None:
    """Draw the attention of a foreground pixel against a background pixel: a dot for each token, a line for their mean.

    Args:
        tokenizers: name -> sums over images.
        path: where to save, by its ending (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 0.9 * len(tokenizers), 3.4), layout="constrained")
    axis = figure.subplots()
    for place, sums in enumerate(tokenizers.values()):
        axis.plot([place] * len(sums.ratio), sums.ratio, "o", color=COLORS[0], alpha=0.5, label="a token")
        axis.plot([place - 0.3, place + 0.3], [sums.mean_ratio] * 2, color=COLORS[1], linewidth=2, label="all tokens")
    axis.axhline(1, color="gray", linewidth=1, linestyle="--", label="uniform")
    axis.set(xticks=range(len(tokenizers)), xticklabels=list(tokenizers), xlim=(-0.6, len(tokenizers) - 0.4))
    axis.set(xlabel="tokenizer", ylabel="attention per pixel,\nforeground / background")
    axis.set_ylim(0, None)
    axis.grid(axis="y", alpha=0.3)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), fontsize=7, ncols=3, loc="outside upper center", frameon=False)
    save_figure(figure, path)


def draw_class_images(models: Mapping[str, Mapping[str, np.ndarray]], path: Path | str) -> None:
    """Draw images that models take for classes: a row for each model, a column for each class.

    Args:
        models: model's name -> title -> (H, W, 3), 0..255.
        path: where to save, by its ending (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    columns = max(map(len, models.values()))
    figure = Figure(figsize=(max(1.5 * columns, 3), 1.75 * len(models) + 0.1), layout="constrained")
    for row, (name, pictures) in zip(figure.subplots(len(models), columns, squeeze=False), models.items(), strict=True):
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=8)
        for axis, (title, image) in zip(row, pictures.items(), strict=False):
            axis.imshow(np.round(image).astype("uint8"))
            _title(axis, title)
    save_figure(figure, path)


def draw_training_curves(runs: Mapping[str, Mapping[str, Sequence[float]]], path: Path | str) -> None:
    """Draw figures of several runs over their steps: a plot for each figure (Funnel-ViT, Figure 4).

    Args:
        runs: legend -> column -> values, one an epoch, NaN where there is none: "step", and "train_NAME" and
            "validation_NAME" of each figure NAME.
        path: where to save, by its ending (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    columns = dict.fromkeys(column for run in runs.values() for column in run)
    figures = list(dict.fromkeys(c.partition("_")[2] for c in columns if c.startswith(("train_", "validation_"))))
    across = min(len(figures), 3)
    down = -(-len(figures) // across)
    figure = Figure(figsize=(3.9 * across, 3.1 * down + 0.3), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(figures) :]:
        axis.set_visible(False)
    for axis, name in zip(axes, figures, strict=False):
        for (legend, run), style in zip(runs.items(), _styles(), strict=False):
            for phase, line in (("validation", "-"), ("train", "--")):
                values = np.array(run.get(f"{phase}_{name}", ()), "float64")
                if len(values) and not np.isnan(values).all():
                    shown = style | {"linestyle": line, "alpha": 1 if phase == "validation" else 0.65}
                    label = as_label(f"{legend}, {phase}")
                    axis.plot(np.asarray(run["step"])[: len(values)], values, markersize=3, label=label, **shown)
        axis.set(xlabel="step (updates of the weights)", ylabel=_label(name))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    save_figure(figure, path)


def _label(name):
    words = {"miou": "mean IoU", "loss": "loss", "top1": "top-1", "top5": "top-5"}.get(name, name.replace("_", " "))
    return words if "loss" in name else f"{words}, share"


def _styles() -> Iterator[dict[str, str]]:
    """Colour and marker of each line, endlessly."""
    number = 0
    while True:
        yield {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number // len(COLORS) % len(MARKERS)]}
        number += 1
