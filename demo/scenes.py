"""The shapes of `demo.shapes` as objects: boxes and masks of what is seen of each, in COCO's format."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths
from rich.progress import track

from demo.shapes import CLASS_NAMES, COUNTS, Sample, distance, samples

OBJECT_NAMES = CLASS_NAMES[1:]


def visible(sample: Sample) -> list[np.ndarray]:
    """Where each shape of an image is seen, bool (H, W)."""
    masks = []
    for shape in sample.shapes:
        inside = distance(shape, sample.mask.shape) <= 0
        masks = [*(mask & ~inside for mask in masks), inside]
    return masks


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height of the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y, x = int(rows[0]), int(columns[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def write_coco(folder: Path) -> list[Sample]:
    """Write `folder/<split>/<file>.png` and `folder/annotations/instances_<split>.json`, and return the held-out
    samples.
    """
    held_out = []
    found = {split: {"images": [], "annotations": []} for split in COUNTS}
    for sample in track(samples(), description="Drawing images", total=sum(COUNTS.values())):
        path = folder / sample.split / f"{sample.file}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.pixels).save(path)
        images, annotations = found[sample.split].values()
        height, width = sample.mask.shape
        images.append({"id": len(images) + 1, "file_name": path.name, "height": height, "width": width})
        for shape, mask in zip(sample.shapes, visible(sample), strict=True):
            code = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": shape.label,
                    "bbox": box_of(mask),
                    "area": int(mask.sum()),
                    "segmentation": {"size": [height, width], "counts": code["counts"].decode()},
                    "iscrowd": 0,
                }
            )
        if sample.split == "validation":
            held_out.append(sample)
    categories = [{"id": label, "name": name} for label, name in enumerate(OBJECT_NAMES, 1)]
    (folder / "annotations").mkdir()
    for split, content in found.items():
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content | {"categories": categories}), encoding="utf-8")
    return held_out
