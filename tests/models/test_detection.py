"""From a RetinaNet's answers to boxes, against a NumPy form of mmdetection's."""

import keras
import numpy as np
import pytest
from keras import ops

import tests.contracts as contracts
import tfvt
from tests.models.test_retinanet import TINY
from tfvt.models.detection import DetectionSettings, detector


def answers(model, images):
    """A model's outputs on images as arrays, with a head far from its start and scores far from each other."""
    rng = np.random.default_rng(0)
    for layer, spread in (("class_logits", 2), ("box_deltas", 1)):
        head = model.get_layer({"class_logits": "head_class", "box_deltas": "head_box"}[layer])
        head.set_weights([rng.normal(size=weight.shape) for weight in head.get_weights()])
        scale = spread / ops.convert_to_numpy(model(images)[layer]).std()
        head.set_weights([weight * scale for weight in head.get_weights()])
    return {key: ops.convert_to_numpy(value) for key, value in model(images).items()}


def iou(a, b):
    top, bottom = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(bottom - top, 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def decoded(delta, anchor):
    centre, side = (anchor[:2] + anchor[2:]) / 2, anchor[2:] - anchor[:2]
    centre = centre + delta[:2] * side
    side = side * np.exp(np.clip(delta[2:], -np.log(1000 / 16), np.log(1000 / 16)))
    return np.concatenate([centre - side / 2, centre + side / 2])


def detections(logits, deltas, anchors, size, counts, settings):
    """[(score, label, box)] of one image, best first: per level the best anchors, all their classes, then NMS."""
    limits, found, first = np.array([*size, *size]), [], 0
    for count in counts:
        order = np.argsort(-logits[first : first + count].max(-1), kind="stable")[: settings.candidates] + first
        for row in order:
            box = np.clip(decoded(deltas[row], anchors[row]), 0, limits)
            if (box[:2] == box[2:]).any():
                continue
            for label, score in enumerate(1 / (1 + np.exp(-logits[row].astype("float64")))):
                if score > settings.score_threshold:
                    found.append((score, label, box))
        first += count
    found.sort(key=lambda one: -one[0])
    kept = []
    for score, label, box in found:
        if all(other[1] != label or iou(other[2], box) <= settings.iou_threshold for other in kept):
            kept.append((score, label, box))
    return kept[: settings.max_detections]


SETTINGS = (
    DetectionSettings(candidates=50, score_threshold=0.4, iou_threshold=0.4, max_detections=20),
    DetectionSettings(candidates=6, score_threshold=0.7, iou_threshold=0.6, max_detections=300),
)


def test_detections_are_mmdetections():
    """Of images of two true sizes in one batch, at a size that strides do not divide; one level has few anchors."""
    keras.utils.set_random_seed(0)
    model = tfvt.create_model("retinanet_resnet50", num_classes=3, input_shape=(None, None, 3), **TINY)
    images, sizes = contracts.random_images((2, 51, 66, 3)), np.array([[51, 66], [30, 41]], "int32")
    outputs = answers(model, images)
    counts = [9 * -(-51 // stride) * -(-66 // stride) for stride in (8, 16, 32, 64)]
    for settings in SETTINGS:
        ours = detector(model, settings).predict({"image": images, "size": sizes}, verbose=0)
        for number in range(2):
            logits, deltas, anchors = (outputs[key][number] for key in ("class_logits", "box_deltas", "anchors"))
            kept = detections(logits, deltas, anchors, sizes[number], counts, settings)
            there = len(kept)
            assert there > 3
            assert (ours["labels"][number, there:] == -1).all()
            assert not ours["boxes"][number, there:].any()
            np.testing.assert_array_equal(ours["labels"][number, :there], [label for _, label, _ in kept])
            np.testing.assert_allclose(ours["scores"][number, :there], [score for score, _, _ in kept], rtol=1e-5)
            np.testing.assert_allclose(ours["boxes"][number, :there], [box for _, _, box in kept], atol=1e-3)


def test_a_saved_detector_gives_the_same_boxes(tmp_path):
    model = tfvt.create_model("retinanet_resnet50", num_classes=3, input_shape=(64, 64, 3), **TINY)
    inputs = {"image": contracts.random_images((1, 64, 64, 3)), "size": np.array([[64, 64]], "int32")}
    whole = detector(model, DetectionSettings(score_threshold=0.0))
    shapes = {"boxes": (None, 100, 4), "scores": (None, 100), "labels": (None, 100)}
    assert {key: tuple(value.shape) for key, value in whole.output.items()} == shapes
    whole.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras", compile=False)
    expected, actual = (m.predict(inputs, verbose=0) for m in (whole, loaded))
    for key in expected:
        np.testing.assert_array_equal(expected[key], actual[key])
    assert (expected["labels"] >= 0).sum() > 5


def test_a_pyramid_of_one_level():
    """Such as a ViT's."""
    model = tfvt.create_model(
        "retinanet_resnet50", num_classes=3, input_shape=(64, 64, 3), **TINY | {"levels": ("P4",), "extra_levels": 0}
    )
    images = contracts.random_images((2, 64, 64, 3))
    answers(model, images)
    find = detector(model, DetectionSettings(score_threshold=0.0, max_detections=5))
    found = find({"image": images, "size": np.full((2, 2), 64, "int32")})
    assert (ops.convert_to_numpy(found["labels"]) >= 0).all()


def test_a_model_without_boxes_is_refused():
    model = tfvt.create_model("resnet18", num_classes=3, input_shape=(32, 32, 3), width=8, depths=(1,))
    with pytest.raises(ValueError, match="resnet18 is no detection model with a head"):
        detector(model)
