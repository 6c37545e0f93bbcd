"""`make demo-detection`: shapes on photographs -> COCO -> TFRecords -> a RetinaNet with ACmix -> boxes.

`make demo-detection-masks`: the same with a Mask R-CNN, which also gives masks. Every step except the drawing is a
command that works on a user's own images and boxes in the same way.
"""

import csv
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from PIL import Image
from rich.table import Table

from demo.digits import command, console
from demo.scenes import write_coco

SHOWN = 12  # images in the picture of predictions
COLUMNS = 4


@dataclass(frozen=True)
class Demo:
    """What is trained, where, and the least AP50 of each kind of its answers: columns of metrics.csv."""

    model: str
    root: Path
    required: dict[str, float]


DEMOS = {
    "boxes": Demo("retinanet", Path("runs/demo_detection"), {"ap50": 0.85}),
    "masks": Demo("mask_rcnn", Path("runs/demo_detection_masks"), {"ap50": 0.7, "mask_ap50": 0.7}),
}


def main(kind="boxes"):
    started = time.monotonic()
    demo = DEMOS[kind]
    root, run = demo.root, demo.root / demo.model
    shutil.rmtree(root, ignore_errors=True)
    images, records = root / "images", root / "records"
    held_out = write_coco(images)
    command("tfvt", "records", "convert", images, records, "--format", "coco")
    command("tfvt", "records", "inspect", records, "--contact-sheet", root / "records.png")
    command("tfvt", "train", "--config", f"configs/shapes_{demo.model}.yaml", "--output", run)
    command("tfvt", "evaluate", run)
    files = [images / "validation" / f"{sample.file}.png" for sample in held_out[:SHOWN]]
    command("tfvt", "predict", run, *files, "--output", root / "predictions")
    command("tfvt", "export", run, root / "saved_model")
    command("python", "-m", "demo.ask_boxes", root / "saved_model", *files[:2])
    draw_predictions([root / "predictions" / file.name for file in files], root / "predictions.png")
    found = summarize(demo, run, started)
    for name, least in demo.required.items():
        if not found[name] >= least:
            sys.exit(f"{name} is {found[name]:.2%}, expected at least {least:.0%}")


def draw_predictions(files, path):
    """Save the pictures of predictions side by side."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    side = max(max(picture.size) for picture in pictures)
    sheet = Image.new("RGB", (COLUMNS * side, -(-len(pictures) // COLUMNS) * side), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % COLUMNS * side, place // COLUMNS * side))
    sheet.save(path)


def summarize(demo, run, started):
    """Print the results and the place of every file; returns the figures by name."""
    with open(run / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    figures = {
        name.removeprefix("validation_"): float(cell)
        for name, cell in last.items()
        if name.startswith(("validation_ap", "validation_mask_ap"))
    }
    table = Table("", "", title="\nmake demo-detection", title_justify="left", show_header=False)
    for start, of in (("", ""), ("mask_", " of masks")):
        for title, name in (("AP on shapes never seen", "ap"), ("at an overlap of 0.5", "ap50"), ("of 0.75", "ap75")):
            if start + name in figures:
                table.add_row(title + of, f"{figures[start + name]:.2%}")
    table.add_row("images/s in training", f"{float(last['images_per_second']):.0f}")
    for title, name in (
        ("pictures", "predictions.png, records.png"),
        ("boxes", "predictions/detections.json"),
        ("model", f"{demo.model}/final.keras"),
        ("served model", "saved_model"),
    ):
        table.add_row(title, f"{name} in {demo.root}")
    table.add_row("time", f"{(time.monotonic() - started) / 60:.1f} minutes")
    console.print(table)
    return figures


if __name__ == "__main__":
    main(*sys.argv[1:])
