"""docs/models.md and results/models.csv: every registered model on one line, in the columns of timm's results.

python -m benchmarks.models docs/models.md results/models.csv [--speed]

`--speed` measures the classifiers again (minutes to an hour); without it, the speeds in the CSV file stay.
"""

import csv
import fnmatch
import functools
import gc
import re
import sys
import time
from pathlib import Path

import keras
import numpy as np

import tfvt
from benchmarks.counting import acmix_name, paper_rows
from benchmarks.fidelity_segmentation import dense_name
from benchmarks.timing import alternate, median_ratio
from tfvt.registry import get_variant

COLUMNS = (
    "model", "task", "img_size", "num_classes", "param_count", "gmacs", "levels", "weights", "paper_metric",
    "paper_value", "paper_source", "relative_speed",
)  # fmt: skip
BATCH, REFERENCE = 8, "resnet50"

# Pattern of names -> (height, width) and classes: those of the sets that the papers train on; the first that matches.
SIZES = {
    "*fpn_resnet*": ((800, 1216), 54),  # COCO-stuff
    "semantic_fpn_*": ((512, 2048), 150),  # ADE20K
    "upernet_*": ((512, 2048), 150),
    "retinanet_*": ((800, 1333), 80),  # COCO
    "*mask_rcnn_*": ((800, 1333), 80),
    "*": ((224, 224), 1000),  # ImageNet
}

# Pattern of names -> sources of whole models, as `load_checkpoint` calls them; the first that matches.
SOURCES = {
    "resnet*": "torchvision timm huggingface",
    "vit_*": "google huggingface timm tfm",
    "funnel_vit_*": "google huggingface timm tfm",
    "acmix_resnet*": "acmix",
    "san*": "san",
    "pvt_*": "pvt huggingface",
    "swin_*": "swin huggingface",
    "acmix_swin_*": "swin",
    "upernet_swin_*": "mmsegmentation huggingface",
    "semantic_fpn_pvt_*": "mmsegmentation",
    "retinanet_resnet*": "torchvision mmdetection",
    "retinanet_pvt_*": "mmdetection",
    "*mask_rcnn_swin_*": "mmdetection",
}

FUNNEL = {  # system and setting in paper_results.csv -> model
    ("B12(197) ViT", ""): "vit_base16",
    ("B6(197)-6(99)", "mean"): "funnel_vit_base16_6_6",
    ("B4(197)-4(99)-4(50)", "max"): "funnel_vit_base16_4_4_4",
    ("B6(197)-6(50)", "max"): "funnel_vit_base16_6_6_stride4",
    ("B6(197)-6(99)-4(50)", ""): "funnel_vit_base16_6_6_4",
    ("B6(197,h1024)-6(99,h1024)", ""): "funnel_vit_base16_6_6_h1024",
    ("B6(197,m4096)-6(99,m4096)", ""): "funnel_vit_base16_6_6_m4096",
    ("B6(197)-6(99)-4(50,m1536)", ""): "funnel_vit_base16_6_6_4_m1536",
    ("B6(197)-6(99)-2(50,m1536)", ""): "funnel_vit_base16_6_6_2_m1536",
    ("B6(197,m4096)-6(99)-2(50,m1536)", ""): "funnel_vit_base16_m4096_6_6_2_m1536",
}
PAPERS = {"VT-ICCV": "Visual Transformers", "ACmix": "ACmix", "Funnel-ViT": "Funnel-ViT"}
METRICS = {"top1_val": "top-1", "miou": "mIoU", "ap": "AP"}

INTRODUCTION = """# All models

`make models` writes this page and [results/models.csv](../results/models.csv), which has the same rows for scripts, in
the columns of timm's results. The counts come from the built models (`tfvt.profile`) at the size in the table:
parameters in millions, with norms, and multiply-adds in billions for one image. A semantic FPN over PVT has position
embeddings for that size (7.7 M more than at 224x224).

- **Weights** are the sources whose files `tfvt.load_checkpoint` reads into the model. In parentheses: into its trunk or
  backbone alone. tfvt publishes none.
- **Paper** is the accuracy that a paper prints, in percent, and where. Of several figures it is the first in
  `docs/paper_results.csv`; [fidelity.md](fidelity.md) has them all. **None of these models has been trained on
  ImageNet, COCO or ADE20K with this code yet.**
- **Speed** is inference on TensorFlow, images per second over those of `resnet50` in the same run: batches of 8,
  alternating calls, the processor's time of all threads, the median of the ratios. An empty cell was not measured.
"""
HEADINGS = {
    "classification": "Classification, 224x224, 1000 classes",
    "segmentation": "Segmentation: COCO-stuff (54 classes) at 800x1216, ADE20K (150) at 512x2048",
    "detection": "Detection: COCO (80 classes) at 800x1333",
}


def first_match(table, name):
    """The value of the first pattern that matches, or ""."""
    return next((value for pattern, value in table.items() if fnmatch.fnmatchcase(name, pattern)), "")


@functools.cache
def levels_of_head(name):
    """The levels of a model, as its own error names them."""
    gc.collect()
    try:
        tfvt.create_model(name, features=("none",))
    except ValueError as error:
        return " ".join(re.findall(r"\bP\d\b", str(error)))
    raise AssertionError(f"{name} takes a level that is none")


def levels_of(name):
    """The levels of a model. One that reads a backbone has those of its neck, over any backbone."""
    head = name.removesuffix(get_variant(name).row.get("backbone", "none"))
    return levels_of_head(next(other for other in tfvt.list_models() if other.startswith(head)))


def weight_sources(name):
    """Sources of the whole model, or else of its trunk or backbone, in parentheses."""
    whole = first_match(SOURCES, name)
    task, backbone = get_variant(name).task, get_variant(name).row.get("backbone", "")
    if whole or (task == "classification" and not name.startswith("vt_resnet")):
        return whole
    part = first_match(SOURCES, backbone or name.removeprefix("vt_"))
    return f"({part})" if part else ""


def paper_figures():
    """The first figure of each model in paper_results.csv: name -> (metric, value, source)."""
    figures = {}
    for paper, title in PAPERS.items():
        for row in paper_rows(paper):
            column = next(column for column in METRICS if row[column])
            if paper == "Funnel-ViT":
                name = FUNNEL.get((row["system"], row["setting"]))
            elif column != "top1_val":
                name = dense_name(row["system"])
            else:  # "VT-ResNet-18" and "Swin-ACmix-T"
                name = row["system"].lower().replace("-", "_").replace("resnet_", "resnet")
                name = name if paper == "VT-ICCV" else acmix_name(row["system"])
            name = (name or "").replace("mask_r_cnn", "mask_rcnn").replace("swin_conv", "conv_swin")
            where = f"Figure {row['table'][3:]}" if row["table"].startswith("Fig") else f"Table {row['table']}"
            source = ", ".join(filter(None, (title, where, row["setting"])))
            figures.setdefault(name, (METRICS[column], row[column], source))
    figures.pop("")  # settings of Funnel-ViT that are no models of their own
    return figures


def model_row(name, figures, speeds):
    """One model's row: column -> text."""
    gc.collect()  # a model is a cycle of objects
    (height, width), classes = first_match(SIZES, name)
    profile = tfvt.profile(tfvt.create_model(name, input_shape=(height, width, 3), num_classes=classes))
    size = str(height) if height == width else f"{height}x{width}"
    cells = (
        name, get_variant(name).task, size, str(classes), f"{profile.params / 1e6:.2f}", f"{profile.macs / 1e9:.2f}",
        levels_of(name), weight_sources(name), *figures.get(name, ("", "", "")), speeds.get(name, ""),
    )  # fmt: skip
    return dict(zip(COLUMNS, cells, strict=True))


def read(path):
    """The rows of a CSV file, none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def page(rows):
    """The page as text."""
    parts = [INTRODUCTION]
    for task, heading in HEADINGS.items():
        parts += [f"\n## {heading}\n\n| model | parameters (M) | MACs (G) | levels | weights | paper | speed |\n"]
        parts += ["|---|---|---|---|---|---|---|\n"]
        for row in rows:
            if row["task"] == task:
                paper = f"{row['paper_value']} {row['paper_metric']} ({row['paper_source']})".replace(" ()", "").strip()
                cells = (f"`{row['model']}`", *(row[c] for c in COLUMNS[4:8]), paper, row["relative_speed"])
                parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def measure_speeds(names, rounds=7):
    """Images per second over those of the reference: name -> text."""
    import tensorflow as tf

    images = tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype("float32"))

    def forward(name):
        model = tfvt.create_model(name)
        return tf.function(lambda: model(images, training=False), autograph=False)

    reference, speeds = forward(REFERENCE), {REFERENCE: "1.00"}
    for name in names:
        if name != REFERENCE:
            times = alternate({REFERENCE: reference, name: forward(name)}, rounds, clock=time.process_time)
            speeds[name] = f"{median_ratio(times, REFERENCE, name, 'inference'):.2f}"
            print(f"{name:40}  {speeds[name]}x", flush=True)
            gc.collect()
    return speeds


def main(page_path, csv_path, *flags):
    names = tfvt.list_models()
    speeds = {row["model"]: row["relative_speed"] for row in read(csv_path)}
    if "--speed" in flags:
        speeds = measure_speeds([name for name in names if get_variant(name).task == "classification"])
    # In this scope variables have shapes and no values, so counting takes no memory. Leaving it would draw the values.
    keras.StatelessScope().__enter__()
    figures, rows = paper_figures(), []
    for name in names:
        rows.append(model_row(name, figures, speeds))
        print(*rows[-1].values(), sep="  ", flush=True)
    write(csv_path, rows)
    page_path.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
