"""`make demo-segmentation`: shapes on photographs -> TFRecords -> FPN and VT-FPN -> label maps next to each other.

Both models train by one recipe and differ in their necks alone. Every step except the drawing is a command that works
on a user's own images and masks in the same way.
"""

import csv
import functools
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image
from rich.table import Table

from benchmarks.timing import alternate
from demo.digits import command, console
from demo.shapes import CLASS_NAMES, NUM_SHAPES, VOID, write_folders
from tfvt.data.mask_pictures import palette

ROOT = Path("runs/demo_segmentation")
RECIPE = "configs/shapes_fpn.yaml"
NECKS = {"fpn": "FPN", "vt_fpn": "VT-FPN"}
REQUIRED_MIOU = 0.85
SHOWN = 6  # images in the picture of predictions
BACKGROUND = (225, 225, 225)  # its colour there
TOKEN_IMAGES = 2  # in that of attention
SIZE = (96, 128)  # of images that are drawn and timed
BATCH = 16  # images at a time when timed


def main():
    started = time.monotonic()
    shutil.rmtree(ROOT, ignore_errors=True)
    images, layout, records = ROOT / "images", ROOT / "layout.yaml", ROOT / "records"
    held_out = write_folders(images, layout)
    command("tfvt", "records", "convert", images, records, "--format", "segmentation", "--layout", layout)
    command("tfvt", "records", "inspect", records, "--contact-sheet", ROOT / "records.png")
    shown = [s for s in held_out if s.mask.shape == SIZE and len(s.shapes) == NUM_SHAPES[1]][:SHOWN]
    files = [images / "validation" / "images" / f"{sample.file}.png" for sample in shown]
    for neck in NECKS:
        command("tfvt", "train", "--config", RECIPE, "--model.options.neck", neck, "--output", ROOT / neck)
        command("tfvt", "evaluate", ROOT / neck)
        command("tfvt", "predict", ROOT / neck, *files, "--output", ROOT / f"{neck}_predictions")
    command("tfvt", "export", ROOT / "vt_fpn", ROOT / "saved_model")
    command("python", "-m", "demo.ask_masks", ROOT / "saved_model", *files)
    draw_predictions(shown, ROOT / "predictions.png")
    worst = summarize(held_out, shown, started)
    if worst < REQUIRED_MIOU:
        sys.exit(f"mIoU is {worst:.2%}, expected at least {REQUIRED_MIOU:.0%} with both necks")


def draw_predictions(samples, path):
    """Save images next to their masks and to what each model answers, with a legend of the classes."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = palette()
    colors[0] = BACKGROUND
    figure = Figure(figsize=(7.6, 1.45 * len(samples) + 0.6), layout="constrained")
    axes = figure.subplots(len(samples), 2 + len(NECKS), squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        row[0].imshow(sample.pixels)
        row[1].imshow(colors[sample.mask])
        for axis, neck in zip(row[2:], NECKS, strict=True):
            answer = Image.open(ROOT / f"{neck}_predictions" / f"{sample.file}.png")
            axis.imshow(colors[np.asarray(answer)])
    for axis, title in zip(axes[0], ("image", "mask", *NECKS.values()), strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    labels = {**dict(enumerate(CLASS_NAMES)), VOID: "void"}
    patches = [Patch(facecolor=colors[label] / 255, edgecolor="gray", label=name) for label, name in labels.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def look_at_tokens(model, samples, shown):
    """Draw what VT-FPN's tokens look at in `shown`; return the shapes' area in `samples` and the attention on them."""
    from tfvt.analysis import draw_token_attention, foreground_attention, token_attention

    def by_level(samples):
        maps = token_attention(model, np.stack([sample.pixels for sample in samples]))
        return {name.split("_")[1].upper(): attention for name, attention in maps.items()}

    levels = by_level(shown)
    height, width = levels["P2"].shape[1:3]
    rows = [
        np.kron(maps[image], np.ones((height // maps.shape[1], width // maps.shape[2], 1)))
        for image in range(len(shown))
        for maps in levels.values()
    ]
    images = np.stack([sample.pixels for sample in shown]).repeat(len(levels), axis=0)
    draw_token_attention(images, np.stack(rows), ROOT / "token_attention.png", [*levels] * len(shown))

    masks = np.stack([sample.mask for sample in samples])
    shapes = np.where(masks == VOID, 0.5, masks > 0)  # half of an outline's pixels are outside
    return shapes.mean(), {
        level: foreground_attention(maps, shapes).mean() for level, maps in by_level(samples).items()
    }


def images_per_second(models, images):
    """Of each whole model and of each neck alone on the maps of its backbone: (neck, "model" or "neck") -> rate."""
    import keras
    import tensorflow as tf

    calls = {}
    for neck, model in models.items():
        end = {"fpn": "output", "vt_fpn": "projector"}[neck]
        maps = [model.get_layer(f"neck_p{level}_lateral").input for level in range(2, 6)]
        outputs = [model.get_layer(f"neck_p{level}_{end}").output for level in range(2, 6)]
        values = keras.Model(model.input, maps)(images, training=False)
        calls[neck, "neck"] = functools.partial(tf.function(keras.Model(maps, outputs)), values, training=False)
        calls[neck, "model"] = functools.partial(tf.function(model), tf.constant(images), training=False)
    return {name: len(images) / statistics.median(seconds) for name, seconds in alternate(calls).items()}


def summarize(held_out, shown, started):
    """Draw the tokens, print the results and the place of every file; returns the lower mIoU."""
    import keras

    import tfvt

    models = {neck: keras.models.load_model(ROOT / neck / "final.keras", compile=False) for neck in NECKS}
    samples = [sample for sample in held_out if sample.mask.shape == SIZE]
    area, attention = look_at_tokens(models["vt_fpn"], samples, shown[:TOKEN_IMAGES])
    rates = images_per_second(models, np.stack([sample.pixels for sample in samples[:BATCH]]))
    profiles = {neck: tfvt.profile(model, (*SIZE, 3)) for neck, model in models.items()}
    necks = {neck: [row for row in p.rows if row.path.startswith("neck_")] for neck, p in profiles.items()}
    last = {neck: last_epoch(ROOT / neck) for neck in NECKS}

    size = f"{SIZE[0]}x{SIZE[1]}"
    table = Table("", *NECKS.values(), title="\nmake demo-segmentation", title_justify="left")
    for title, text in (
        ("mIoU on shapes never seen", lambda neck: f"{float(last[neck]['validation_miou']):.2%}"),
        ("right pixels", lambda neck: f"{float(last[neck]['validation_pixel_accuracy']):.2%}"),
        ("parameters", lambda neck: f"{profiles[neck].params:,}"),
        ("of the neck", lambda neck: f"{sum(row.params for row in necks[neck]):,}"),
        (f"MACs, {size}", lambda neck: f"{profiles[neck].macs:,}"),
        ("of the neck", lambda neck: f"{sum(row.macs for row in necks[neck]):,}"),
        (f"images/s, {size}", lambda neck: f"{rates[neck, 'model']:.0f}"),
        ("of the neck", lambda neck: f"{rates[neck, 'neck']:.0f}"),
        ("images/s in training", lambda neck: f"{float(last[neck]['images_per_second']):.0f}"),
    ):
        table.add_row(title, *map(text, NECKS))
    console.print(table)

    table = Table(show_header=False)
    table.add_row("area of the shapes", f"{area:.1%} of the images")
    for level, share in attention.items():
        table.add_row(f"tokens of {level}", f"{share:.1%} on shapes, {share / area:.1f} times their area")
    for title, files in (
        ("pictures", "predictions.png, token_attention.png, records.png"),
        ("models", ", ".join(f"{neck}/final.keras" for neck in NECKS)),
        ("served model", "saved_model"),
        ("label maps", ", ".join(f"{neck}_predictions" for neck in NECKS)),
    ):
        table.add_row(title, f"{files} in {ROOT}")
    table.add_row("time", f"{(time.monotonic() - started) / 60:.1f} minutes")
    console.print(table)
    return min(float(epoch["validation_miou"]) for epoch in last.values())


def last_epoch(run):
    """The last row of a run's metrics, as text."""
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


if __name__ == "__main__":
    main()
