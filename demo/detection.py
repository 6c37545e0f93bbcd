"""`make demo-detection`: shapes on photographs -> COCO -> TFRecords -> a RetinaNet with ACmix -> boxes.

Every step except the drawing is a command that works on a user's own images and boxes in the same way.
"""

import csv
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from PIL import Image
from rich.table import Table

from demo.digits import command, console
from demo.scenes import write_coco

ROOT = Path("runs/demo_detection")
RECIPE = "configs/shapes_retinanet.yaml"
REQUIRED_AP50 = 0.85
SHOWN = 12  # images in the picture of predictions
COLUMNS = 4


def main():
    started = time.monotonic()
    shutil.rmtree(ROOT, ignore_errors=True)
    images, records, run = ROOT / "images", ROOT / "records", ROOT / "retinanet"
    held_out = write_coco(images)
    command("tfvt", "records", "convert", images, records, "--format", "coco")
    command("tfvt", "records", "inspect", records, "--contact-sheet", ROOT / "records.png")
    command("tfvt", "train", "--config", RECIPE, "--output", run)
    command("tfvt", "evaluate", run)
    files = [images / "validation" / f"{sample.file}.png" for sample in held_out[:SHOWN]]
    command("tfvt", "predict", run, *files, "--output", ROOT / "predictions")
    command("tfvt", "export", run, ROOT / "saved_model")
    command("python", "-m", "demo.ask_boxes", ROOT / "saved_model", *files[:2])
    draw_predictions([ROOT / "predictions" / file.name for file in files], ROOT / "predictions.png")
    found = summarize(run, started)
    if found < REQUIRED_AP50:
        sys.exit(f"AP50 is {found:.2%}, expected at least {REQUIRED_AP50:.0%}")


def draw_predictions(files, path):
    """Save the pictures of predictions side by side."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    side = max(max(picture.size) for picture in pictures)
    sheet = Image.new("RGB", (COLUMNS * side, -(-len(pictures) // COLUMNS) * side), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % COLUMNS * side, place // COLUMNS * side))
    sheet.save(path)


def summarize(run, started):
    """Print the results and the place of every file; returns AP50."""
    with open(run / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    table = Table("", "", title="\nmake demo-detection", title_justify="left", show_header=False)
    for title, name in (("AP on shapes never seen", "ap"), ("at an overlap of 0.5", "ap50"), ("of 0.75", "ap75")):
        table.add_row(title, f"{float(last[f'validation_{name}']):.2%}")
    table.add_row("images/s in training", f"{float(last['images_per_second']):.0f}")
    for title, name in (
        ("pictures", "predictions.png, records.png"),
        ("boxes", "predictions/detections.json"),
        ("model", "retinanet/final.keras"),
        ("served model", "saved_model"),
    ):
        table.add_row(title, f"{name} in {ROOT}")
    table.add_row("time", f"{(time.monotonic() - started) / 60:.1f} minutes")
    console.print(table)
    return float(last["validation_ap50"])


if __name__ == "__main__":
    main()
