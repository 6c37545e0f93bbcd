"""Average precision of detections, as COCO defines it: faster-coco-eval computes it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfvt.errors import UsageError

# The twelve numbers of COCO, in the order of its evaluation; sizes are by the true object's area in pixels: below 32^2,
# below 96^2, and above.
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


@dataclass(frozen=True)
class AveragePrecision:
    """Figures in 0..1; NaN where there is nothing to find.

    Attributes:
        figures: by the names of `FIGURES`: the mean precision over recalls, classes and overlaps of 0.5 to 0.95 (`ap`),
            at one overlap (`ap50`, `ap75`), for objects of some size; the recall of the best 1, 10, 100 detections.
        by_class: `ap` of each class.
    """

    figures: dict[str, float]
    by_class: np.ndarray


def average_precision(
    images: Iterable[Mapping[str, np.ndarray]], num_classes: int, kind: Literal["bbox", "segm"] = "bbox"
) -> AveragePrecision:
    """Compare the detections of each image with its true objects.

    Args:
        images: dicts of
            - "size" (2,): height and width in pixels;
            - "true_boxes" (N, 4), "true_labels" (N,), "true_crowd" (N,) bool, "true_area" (N,): what there is;
            - "boxes" (D, 4), "scores" (D,), "labels" (D,): what was found;
            - for "segm" also "true_masks" and "masks": `pack_masks` of run-length codes.
            Boxes are y1, x1, y2, x2 in pixels of the image.
        num_classes: labels are below it.
        kind: what overlaps are measured on, boxes or masks.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """
    coco, evaluation_of = _library()
    true, found, sizes = [], [], []
    for number, image in enumerate(images, 1):
        height, width = (int(side) for side in image["size"])
        sizes.append({"id": number, "height": height, "width": width})
        places = _places(image["true_boxes"], image.get("true_masks"), (height, width), kind)
        for place, label, crowd, area in zip(
            places, image["true_labels"], image["true_crowd"], image["true_area"], strict=True
        ):
            true.append(
                {"id": len(true) + 1, "image_id": number, "category_id": int(label), "iscrowd": int(crowd)}
                | {"area": float(area), "ignore": 0, **place}
            )
        places = _places(image["boxes"], image.get("masks"), (height, width), kind)
        for place, label, score in zip(places, image["labels"], image["scores"], strict=True):
            found.append({"image_id": number, "category_id": int(label), "score": float(score), **place})
    if not any(not annotation["iscrowd"] for annotation in true):
        return AveragePrecision(dict.fromkeys(FIGURES, math.nan), np.full(num_classes, math.nan))
    categories = [{"id": label, "name": str(label)} for label in range(num_classes)]
    truth = coco({"images": sizes, "annotations": true, "categories": categories})
    evaluation = evaluation_of(truth, truth.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    figures = {name: _share(value) for name, value in zip(FIGURES, evaluation.stats[:12], strict=True)}
    # (overlaps, recalls, classes, areas, limits): all objects, the best 100
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    by_class = np.array([_share(precision[:, :, label].mean()) for label in range(num_classes)])
    return AveragePrecision(figures, by_class)


def _library():
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UsageError(
            f"average precision needs faster-coco-eval: pip install 'tfvt[detection]' ({error})"
        ) from error
    return COCO, COCOeval_faster


def _share(value):
    """COCO says -1 where there is nothing to find."""
    return math.nan if value < 0 else float(value)


def _places(boxes, masks, size, kind):
    """The key of annotations that says where objects are. With masks only these: areas are taken from it."""
    if kind == "segm":
        return [{"segmentation": {"size": list(size), "counts": code}} for code in unpack_masks(masks)]
    return [
        {"bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]} for y1, x1, y2, x2 in boxes.astype(np.float64)
    ]


def pack_masks(codes: Sequence[bytes]) -> np.ndarray:
    """Run-length codes as one array of bytes, uint8 (K,), each with a zero byte at its end."""
    return np.frombuffer(b"".join(code + b"\0" for code in codes), np.uint8)


def unpack_masks(packed: np.ndarray) -> list[bytes]:
    """The run-length codes that `pack_masks` packed."""
    return packed.astype(np.uint8).tobytes().split(b"\0")[:-1]
