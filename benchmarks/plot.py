"""The speeds of results/models.csv as pictures: against MACs, and with the papers' accuracies.

python -m benchmarks.plot results/models.csv docs/images

It writes models_speed.png and models_accuracy.png. Models whose speed was not measured are left out.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

# Families in the colours of Okabe and Ito, which colour-blind readers can tell apart, and with a marker each.
FAMILIES = {  # the first that a name begins with
    "vt_resnet": ("VT-ResNet", "#D55E00", "s"),
    "acmix_": ("ACmix", "#009E73", "^"),
    "funnel_vit": ("Funnel-ViT", "#CC79A7", "D"),
    "vit_": ("ViT", "#56B4E9", "v"),
    "resnet": ("ResNet", "#000000", "o"),
    "": ("SAN, SASA, PVT, Swin", "#999999", "P"),
}
SPEED = "images/s on the processor, over those of resnet50"
LABELS = {"gmacs": "multiply-adds of an image, G", "paper_value": "top-1 in the paper, %", "relative_speed": SPEED}


def draw(rows, x, y, path, logarithmic):
    """Scatter one column of the rows over another; `logarithmic` names the axes that are."""
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for prefix, (family, colour, marker) in FAMILIES.items():
        own = [row for row in rows if next(p for p in FAMILIES if row["model"].startswith(p)) == prefix]
        points = [(float(row[x]), float(row[y])) for row in own]
        if points:
            axes.scatter(*zip(*points, strict=True), c=colour, marker=marker, label=family, s=36)
        for row, point in zip(own, points, strict=True):
            axes.annotate(row["model"], point, textcoords="offset points", xytext=(5, 3), fontsize=6, color="#444444")
    axes.set(xlabel=LABELS[x], ylabel=LABELS[y], **{f"{axis}scale": "log" for axis in logarithmic})
    axes.grid(which="major", linewidth=0.4)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(table, folder):
    with open(table, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["relative_speed"]]
    if not rows:
        sys.exit(f"{table} has no speeds: `make models SPEED=--speed` measures them")
    draw(rows, "gmacs", "relative_speed", folder / "models_speed.png", "xy")
    scored = [row for row in rows if row["paper_metric"] == "top-1"]
    draw(scored, "relative_speed", "paper_value", folder / "models_accuracy.png", "x")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
