"""Figures of segmentation from one confusion matrix, which adds up over images and processes without rounding."""

from dataclasses import dataclass

import numpy as np

from tfvt.data.records import VOID


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How many pixels of each class got which answer, int64 (C, C): rows are labels, columns answers.

    Args:
        labels: integers of any shape, from 0; pixels of `VOID` do not count.
        predicted: integers of the same shape, from 0.
        num_classes: C.

    Raises:
        ValueError: another shape, or a class that is not below `num_classes`.
    """
    if labels.shape != predicted.shape:
        raise ValueError(f"labels of shape {labels.shape} do not go with answers of shape {predicted.shape}")
    counted = labels != VOID
    labels, predicted = (np.asarray(classes)[counted].astype(np.int64) for classes in (labels, predicted))
    for name, classes in (("labels", labels), ("answers", predicted)):
        if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
            raise ValueError(f"{name} have classes from {classes.min()} to {classes.max()}, not below {num_classes}")
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class SegmentationFigures:
    """Shares in 0..1; NaN where there is nothing to count.

    Attributes:
        miou: the mean of `iou` over the classes that are there.
        iou: of each class, float64 (C,): the pixels that have it in both labels and answers, of those that have it in
            either. NaN for a class in neither.
        pixel_accuracy: pixels with the right answer.
        mean_class_accuracy: the mean over the classes in the labels of the share of their pixels with the right answer.
    """

    miou: float
    iou: np.ndarray
    pixel_accuracy: float
    mean_class_accuracy: float


def segmentation_figures(matrix: np.ndarray) -> SegmentationFigures:
    """The figures of a confusion matrix (C, C), the sum of those of all images."""
    right, labelled = np.diag(matrix), matrix.sum(1)
    either = labelled + matrix.sum(0) - right
    iou, accuracy = _shares(right, either), _shares(right, labelled)
    return SegmentationFigures(
        miou=_mean(iou),
        iou=iou,
        pixel_accuracy=float(_shares(right.sum(), labelled.sum())),
        mean_class_accuracy=_mean(accuracy),
    )


def _shares(part, of):
    return np.where(of > 0, part / np.maximum(of, 1), np.nan)


def _mean(shares):
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else float("nan")
