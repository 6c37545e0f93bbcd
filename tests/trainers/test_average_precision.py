"""COCO's twelve numbers against pycocotools, whose code is another, and against cases that one can count by hand."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as mask_codes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tfvt.trainers.tasks.average_precision import FIGURES, average_precision, pack_masks, unpack_masks

CLASSES = 3


def random_images(seed, masks=False):
    """Images with objects, crowds, and detections near objects and elsewhere; some without either."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(25):
        height, width = rng.integers(60, 300, 2)
        true, found = rng.integers(0, 6), rng.integers(0, 12)
        true_boxes = random_boxes(rng, true, height, width)
        true_labels, labels = rng.integers(0, CLASSES, true), rng.integers(0, CLASSES, found)
        near = random_boxes(rng, found, height, width)
        if true:
            chosen = rng.integers(0, true, found)
            near, labels = true_boxes[chosen], np.where(rng.uniform(size=found) < 0.8, true_labels[chosen], labels)
        boxes = np.clip(near + rng.normal(0, 4, near.shape), 0, [height, width] * 2)
        boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:]) + 1], 1)
        image = {
            "size": np.array([height, width]),
            "true_boxes": true_boxes,
            "true_labels": true_labels,
            "true_crowd": rng.uniform(size=true) < 0.15,
            "true_area": np.prod(true_boxes[:, 2:] - true_boxes[:, :2], 1) * rng.uniform(0.5, 1, true),
            "boxes": boxes,
            "scores": rng.permutation(found) / 100 + 0.01,  # no ties
            "labels": labels,
        }
        if masks:
            image |= {"true_masks": codes_of(true_boxes, height, width), "masks": codes_of(boxes, height, width)}
        images.append(image)
    return images


def random_boxes(rng, number, height, width):
    corners = np.sort(rng.uniform(0, 1, (number, 2, 2)), axis=1) * [height, width]
    corners[:, 1] += 1
    return np.minimum(corners, [height, width]).reshape(number, 4).astype(np.float32)


def codes_of(boxes, height, width):
    """Ellipses within the boxes."""
    y, x = np.mgrid[:height, :width] + 0.5
    codes = []
    for y1, x1, y2, x2 in boxes:
        inside = ((2 * y - y1 - y2) / (y2 - y1 + 1e-3)) ** 2 + ((2 * x - x1 - x2) / (x2 - x1 + 1e-3)) ** 2 <= 1
        codes.append(mask_codes.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"])
    return pack_masks(codes)


def by_pycocotools(images, kind):
    """The twelve numbers, and the mean precision of each class."""
    true, found = [], []
    for number, image in enumerate(images, 1):
        size = [int(side) for side in image["size"]]

        def places(name, masks, image=image, size=size, number=number):
            boxes = image[name].astype(np.float64)
            boxes = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], 1)
            codes = unpack_masks(image[masks]) if kind == "segm" else [b""] * len(boxes)
            return [
                {"image_id": number, "bbox": box.tolist(), "segmentation": {"size": size, "counts": code}}
                for box, code in zip(boxes, codes, strict=True)
            ]

        for place, label, crowd, area in zip(
            places("true_boxes", "true_masks"),
            image["true_labels"],
            image["true_crowd"],
            image["true_area"],
            strict=True,
        ):
            extra = {"id": len(true) + 1, "category_id": int(label), "iscrowd": int(crowd), "area": float(area)}
            true.append(place | extra)
        for place, label, score in zip(places("boxes", "masks"), image["labels"], image["scores"], strict=True):
            found.append(place | {"category_id": int(label), "score": float(score)})
    if kind == "bbox":
        for annotation in true + found:
            del annotation["segmentation"]
    else:
        for annotation in found:
            del annotation["bbox"]  # pycocotools would take the box for the mask
    truth = COCO()
    truth.dataset = {
        "images": [{"id": n, "height": int(i["size"][0]), "width": int(i["size"][1])} for n, i in enumerate(images, 1)],
        "annotations": true,
        "categories": [{"id": label, "name": str(label)} for label in range(CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"][:, :, :, 0, -1].mean((0, 1))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_the_twelve_numbers_are_those_of_pycocotools(seed, kind):
    images = random_images(seed, masks=kind == "segm")
    expected, by_class = by_pycocotools(images, kind)
    found = average_precision(images, CLASSES, kind)
    assert 0.05 < found.figures["ap"] < 0.95
    np.testing.assert_allclose([found.figures[name] for name in FIGURES], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.by_class, by_class, rtol=0, atol=1e-12)


def image_of(true, boxes, scores, labels=None):
    true, boxes = np.array(true, np.float32).reshape(-1, 4), np.array(boxes, np.float32).reshape(-1, 4)
    return {
        "size": np.array([100, 100]),
        "true_boxes": true,
        "true_labels": np.zeros(len(true), int),
        "true_crowd": np.zeros(len(true), bool),
        "true_area": np.prod(true[:, 2:] - true[:, :2], 1),
        "boxes": boxes,
        "scores": np.array(scores),
        "labels": np.zeros(len(boxes), int) if labels is None else np.array(labels),
    }


def test_figures_that_one_can_count():
    box = [10, 10, 50, 50]
    # Found exactly, with a wrong detection below it in score.
    assert average_precision([image_of([box], [box, [60, 60, 90, 90]], [0.9, 0.8])], 1).figures["ap"] == 1
    # The wrong one above: precision 1/2 at every recall.
    found = average_precision([image_of([box], [box, [60, 60, 90, 90]], [0.8, 0.9])], 1)
    assert found.figures["ap"] == pytest.approx(0.5)
    assert found.figures["ar1"] == 0
    # 40 x 32 of 40 x 40: an overlap of 0.8, right at the seven thresholds from 0.5 to 0.8.
    overlap = average_precision([image_of([box], [[10, 10, 50, 42]], [0.8])], 1)
    assert overlap.figures["ap"] == pytest.approx(0.7)
    assert (overlap.figures["ap50"], overlap.figures["ap75"]) == (1, 1)
    assert overlap.figures["ap_medium"] == pytest.approx(0.7)
    assert np.isnan(overlap.figures["ap_small"])


def test_nothing_found_is_zero_and_nothing_to_find_is_no_figure():
    box = [10, 10, 50, 50]
    nothing_found = average_precision([image_of([box], [], [])], 2)
    assert nothing_found.figures["ap"] == 0
    assert nothing_found.by_class[0] == 0
    assert np.isnan(nothing_found.by_class[1])
    assert np.isnan(average_precision([image_of([], [box], [0.9])], 1).figures["ap"])
    crowd = image_of([box], [box], [0.9]) | {"true_crowd": np.array([True])}
    assert np.isnan(average_precision([crowd], 1).figures["ap"])


def test_codes_of_masks_survive_packing():
    assert unpack_masks(pack_masks([b"ab", b"", b"c1"])) == [b"ab", b"", b"c1"]
    assert unpack_masks(pack_masks([])) == []
