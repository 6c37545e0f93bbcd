"""Figures of segmentation against scikit-learn and Keras."""

import keras
import numpy as np
import pytest
from sklearn import metrics

from tfvt.data.confusion import confusion_matrix, segmentation_figures

CLASSES = 6


def example(seed=0, size=(37, 53)):
    """Labels without class 3, with void; answers without class 4, which the labels have, and never class 5."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 2, 4, 255], size).astype(np.uint8)
    answers = np.where(random.uniform(size=size) < 0.6, labels, random.choice([0, 1, 2, 3], size))
    answers[(answers == 255) | (answers == 4)] = 0
    return labels, answers.astype(np.uint8)


def test_matrix_is_that_of_scikit_learn():
    labels, answers = example()
    matrix = confusion_matrix(labels, answers, CLASSES)
    assert matrix.dtype == np.int64
    counted = labels != 255
    expected = metrics.confusion_matrix(labels[counted], answers[counted], labels=range(CLASSES))
    np.testing.assert_array_equal(matrix, expected)


def test_matrices_of_parts_add_up():
    labels, answers = example()
    parts = sum(confusion_matrix(labels[rows], answers[rows], CLASSES) for rows in (slice(0, 11), slice(11, None)))
    np.testing.assert_array_equal(parts, confusion_matrix(labels, answers, CLASSES))


def test_figures_are_those_of_keras_and_scikit_learn():
    labels, answers = example()
    figures = segmentation_figures(confusion_matrix(labels, answers, CLASSES))
    keras_miou = keras.metrics.MeanIoU(CLASSES, ignore_class=255)
    keras_miou.update_state(labels.astype("int32"), answers.astype("int32"))
    assert figures.miou == pytest.approx(float(keras_miou.result()), rel=1e-6)
    counted = labels != 255
    there = [0, 1, 2, 3, 4]
    jaccard = metrics.jaccard_score(labels[counted], answers[counted], labels=there, average=None)
    np.testing.assert_allclose(figures.iou[there], jaccard)
    assert jaccard[4] == 0  # in the labels alone
    assert np.isnan(figures.iou[5])
    assert figures.pixel_accuracy == pytest.approx(metrics.accuracy_score(labels[counted], answers[counted]))
    recall = metrics.recall_score(labels[counted], answers[counted], labels=[0, 1, 2, 4], average="macro")
    assert figures.mean_class_accuracy == pytest.approx(recall)


def test_nothing_but_void_has_no_figures():
    figures = segmentation_figures(confusion_matrix(np.full((4, 4), 255), np.zeros((4, 4), int), 3))
    assert np.isnan([figures.miou, figures.pixel_accuracy, figures.mean_class_accuracy, *figures.iou]).all()


def test_large_counts_stay_exact():
    matrix = np.diag([2**60, 1]) + np.array([[0, 1], [0, 0]])
    figures = segmentation_figures(matrix)
    assert figures.iou[1] == 0.5


def test_other_shapes_and_classes_are_refused():
    with pytest.raises(ValueError, match=r"labels of shape \(2,\) do not go with answers of shape \(3,\)"):
        confusion_matrix(np.zeros(2, int), np.zeros(3, int), 2)
    with pytest.raises(ValueError, match="labels have classes from 0 to 2, not below 2"):
        confusion_matrix(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="answers have classes from -1 to 0, not below 2"):
        confusion_matrix(np.array([0, 1]), np.array([0, -1]), 2)
