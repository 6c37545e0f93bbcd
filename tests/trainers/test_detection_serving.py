"""The SavedModel of a detection model: objects in the images' own pixels, and results in COCO's format."""

import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from box_model import BOX_NAMES, box_model, mask_model_of_boxes
from keras import ops
from photographs import as_seen, photograph_on_its_side
from PIL import Image
from pycocotools import mask

from tfvt.data.detection import DetectionEvaluation
from tfvt.data.detections import Detections
from tfvt.export import export_saved_model
from tfvt.folding import fuse
from tfvt.trainers.recipes.plain import as_plain
from tfvt.trainers.tasks import detection_serving
from tfvt.trainers.tasks.detection_serving import DetectionServing

EVALUATION = DetectionEvaluation(64, 96, 32, candidates=50, score_threshold=0.3, iou_threshold=0.5, max_detections=12)
SERVING = DetectionServing(BOX_NAMES, EVALUATION, (1, 7, 90, 4))


def encoded(height, width, file_format="PNG", seed=0, mode="RGB"):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(file, file_format)
    return file.getvalue()


IMAGES = [encoded(75, 110), encoded(201, 33, "JPEG", 1), encoded(64, 64, "PNG", 2, "L"), encoded(20, 150, "WEBP", 3)]


@pytest.fixture(scope="module")
def model():
    return fuse(box_model())  # as it is written


@pytest.fixture(scope="module")
def signatures(model, tmp_path_factory):
    path = export_saved_model(model, tmp_path_factory.mktemp("served") / "model", SERVING, max_pixels=20_000)
    return tf.saved_model.load(path).signatures


@pytest.fixture(scope="module")
def served(signatures):
    return signatures["serving_default"]


def test_answers_are_those_of_the_library_bit_for_bit(model, served):
    answer = {name: value.numpy() for name, value in served(image=tf.constant(IMAGES)).items()}
    assert {name: (value.dtype.name, value.shape) for name, value in answer.items()} == {
        "boxes": ("float32", (4, 12, 4)),
        "scores": ("float32", (4, 12)),
        "labels": ("int32", (4, 12)),
        "names": ("object", (4, 12)),
        "size": ("int32", (4, 2)),
    }
    assert answer["size"].tolist() == [[75, 110], [201, 33], [64, 64], [20, 150]]
    answers, counts = SERVING.answers(model), []
    for number, image in enumerate(IMAGES):
        expected = {name: value.numpy() for name, value in answers(SERVING.decode(tf.constant(image))).items()}
        count = len(expected["labels"])
        counts.append(count)
        for name, value in expected.items():
            np.testing.assert_array_equal(answer[name][number, :count], value)
        assert (answer["labels"][number, count:] == -1).all()
        labels = answer["labels"][number].tolist()
        assert answer["names"][number].tolist() == [BOX_NAMES[i].encode() if i >= 0 else b"" for i in labels]
        height, width = answer["size"][number]
        y1, x1, y2, x2 = expected["boxes"].T
        assert ((y1 >= 0) & (y1 < y2) & (y2 <= height) & (x1 >= 0) & (x1 < x2) & (x2 <= width)).all()
        assert y2.max() > 0.7 * height
        assert x2.max() > 0.7 * width
    assert max(counts) > 2
    alone = served(image=tf.constant(IMAGES[1:2]))
    np.testing.assert_array_equal(alone["boxes"][0], answer["boxes"][1])


def test_decoded_and_turned_images_have_the_boxes_of_the_upright_one(signatures):
    stored = Image.open(io.BytesIO(encoded(75, 110))).transpose(Image.Transpose.ROTATE_270)
    photograph = photograph_on_its_side(stored, 8)
    pixels = np.asarray(as_seen(photograph))
    expected = signatures["image"](image=tf.constant(pixels[None]))
    answer = signatures["serving_default"](image=tf.constant([photograph]))
    assert answer["size"].numpy().tolist() == [[75, 110]]
    assert (expected["labels"].numpy() >= 0).any()
    for name, value in expected.items():
        np.testing.assert_array_equal(answer[name], value)
    assert [name.decode() for name in signatures["class_names"]()["class_names"].numpy()] == list(BOX_NAMES)


def test_boxes_come_from_the_resized_image_back_to_its_own_pixels():
    """A detector that finds what its size says: the true part of what it sees, and a pixel of it."""
    seen = []

    def forward(inputs):
        seen.append({name: value.numpy() for name, value in inputs.items()})
        height, width = (float(side) for side in inputs["size"][0])
        boxes = [[[0.0, 0.0, height, width], [1.0, 2.0, 2.0, 4.0]]]
        return {
            "boxes": np.array(boxes, np.float32),
            "scores": np.ones((1, 2), np.float32),
            "labels": np.zeros((1, 2), np.int32),
        }

    pixels = np.random.default_rng(0).integers(0, 256, (150, 300, 3), np.uint8)
    found = Detections(forward, DetectionEvaluation(50, 90, 32))(pixels)
    np.testing.assert_allclose(
        found["boxes"], [[0, 0, 150, 300], [150 / 45, 300 / 45, 300 / 45, 600 * 2 / 90]], rtol=1e-6
    )
    (inputs,) = seen
    assert inputs["size"].tolist() == [[45, 90]], "at most 90 wide"
    assert inputs["image"].shape == (1, 64, 96, 3)
    np.testing.assert_array_equal(inputs["image"][0, :45, :90], tf.image.resize(pixels, (45, 90)))
    outside = inputs["image"][0].copy()
    outside[:45, :90] = (123.675, 116.28, 103.53)
    np.testing.assert_array_equal(outside, np.broadcast_to(np.float32((123.675, 116.28, 103.53)), (64, 96, 3)))
    Detections(forward, DetectionEvaluation(50, 90, 32), (96, 128))(pixels)
    assert seen[1]["image"].shape == (1, 96, 128, 3)


class WithMasks(keras.layers.Layer):
    """Two objects for each image, one in its upper left quarter, and a place that is left."""

    def call(self, size):
        height, width = ops.split(ops.cast(size, "float32"), 2, axis=1)
        box = ops.concatenate([height * 0, width * 0, height / 2, width / 2], 1)
        return {
            "boxes": ops.stack([2 * box, box, 0 * box], 1),
            "scores": ops.concatenate([height * 0 + 0.9, height * 0 + 0.8, height * 0], 1),
            "labels": ops.cast(ops.concatenate([height * 0 + 3, height * 0, height * 0 - 1], 1), "int32"),
            "masks": ops.reshape(height * 0, (-1, 1, 1, 1)) + ops.ones((3, 28, 28)) * [[[0.25]], [[1.0]], [[0.0]]],
        }


def test_a_model_with_masks_gives_them_everywhere(model, tmp_path, monkeypatch):
    def with_masks(model, settings):
        inputs = {"image": model.input, "size": keras.Input((2,), dtype="int32", name="size")}
        return keras.Model(inputs, WithMasks()(inputs["size"]))

    monkeypatch.setattr(detection_serving, "detector", with_masks)
    path = export_saved_model(model, tmp_path / "served", SERVING)
    answer = tf.saved_model.load(path).signatures["serving_default"](image=tf.constant(IMAGES[:2]))
    assert answer["masks"].shape == (2, 3, 28, 28)
    assert answer["names"].numpy().tolist() == [[b"kite", b"person", b""]] * 2
    np.testing.assert_allclose(answer["boxes"][1], [[0, 0, 201, 33], [0, 0, 100.5, 16.5], [0] * 4], rtol=1e-5)
    image = SERVING.decode(tf.constant(IMAGES[0]))
    found = {name: value.numpy() for name, value in SERVING.answers(model)(image).items()}
    assert found["masks"].shape == (2, 28, 28)
    whole, quarter = SERVING.results("7", image.numpy(), found)
    assert mask.area(whole["segmentation"] | {"counts": whole["segmentation"]["counts"].encode()}) == 0
    expected = np.zeros((75, 110), bool)
    expected[:37, :55] = True
    pixels = mask.decode(quarter["segmentation"]).astype(bool)
    np.testing.assert_array_equal(np.delete(pixels, 37, 0), np.delete(expected, 37, 0))
    picture = np.asarray(Image.open(io.BytesIO(SERVING.pictures(image.numpy(), found)[".png"])))
    assert picture.shape == (327, 480, 3)


def test_a_mask_rcnn_is_served(tmp_path):
    model = fuse(mask_model_of_boxes())
    serving = DetectionServing(BOX_NAMES, DetectionEvaluation(64, 96, max_detections=9))
    path = export_saved_model(model, tmp_path / "served", serving)
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    written = sum(file.stat().st_size for file in (path / "variables").iterdir())
    assert weights < written < 1.1 * weights  # every weight once
    answer = tf.saved_model.load(path).signatures["serving_default"](image=tf.constant(IMAGES[:2]))
    assert answer["masks"].shape == (2, 9, 28, 28)
    answers = serving.answers(model)
    for number, image in enumerate(IMAGES[:2]):
        pixels = serving.decode(tf.constant(image))
        expected = {name: value.numpy() for name, value in answers(pixels).items()}
        count = len(expected["labels"])
        assert count > 2
        for name, value in expected.items():
            np.testing.assert_allclose(answer[name][number, :count], value, rtol=1e-5, atol=1e-5)
        results = serving.results("1", pixels.numpy(), expected)
        assert max(mask.area(result["segmentation"]) for result in results) > 20
    with pytest.raises(ValueError, match="3 class names for a model with 4 classes"):
        DetectionServing(BOX_NAMES[:3], EVALUATION).check(model)


def test_what_cannot_be_answered_fails_the_request(served):
    with pytest.raises(tf.errors.InvalidArgumentError, match="image 1 of the request has 201 x 100 pixels: the limit"):
        served(image=tf.constant([IMAGES[0], encoded(100, 201)]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the request holds no image"):
        served(image=tf.zeros((0,), tf.string))
    whole = encoded(40, 40, "JPEG")
    for damaged in (b"text", b"", whole[: len(whole) // 2]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            served(image=tf.constant([damaged]))


def test_a_model_that_does_not_match_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="3 class names for a model with 4 classes"):
        export_saved_model(model, tmp_path / "served", DetectionServing(BOX_NAMES[:3], EVALUATION))
    fixed = box_model(input_shape=(64, 96, 3))
    with pytest.raises(ValueError, match=r"was built for images of \(64, 96\): max_long_side 96 is more than fits"):
        export_saved_model(fixed, tmp_path / "served", SERVING)
    pixels = keras.Input((None, None, 3))
    other = keras.Model(pixels, keras.layers.Conv2D(4, 1)(pixels))
    with pytest.raises(ValueError, match="is no detection model"):
        export_saved_model(other, tmp_path / "served", SERVING)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_one_size_is_served(tmp_path):
    serving = DetectionServing(BOX_NAMES, DetectionEvaluation(32, 64, score_threshold=0.3, max_detections=7))
    path = export_saved_model(box_model(input_shape=(64, 96, 3)), tmp_path / "served", serving)
    answer = tf.saved_model.load(path).signatures["serving_default"](image=tf.constant(IMAGES))
    assert answer["size"].numpy().tolist() == [[75, 110], [201, 33], [64, 64], [20, 150]]
    assert (answer["labels"][:, 0] >= 0).numpy().any()


@pytest.mark.parametrize("numbers", [None, (3, 1, 2, 90)])
def test_plain_values_give_the_same_object(numbers):
    serving = DetectionServing(BOX_NAMES, EVALUATION, numbers)
    assert DetectionServing.from_plain(json.loads(json.dumps(as_plain(serving)))) == serving


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"class_names": "abc", "evaluation": {}, "category_ids": None},
        {"class_names": ["a"], "evaluation": [], "category_ids": None},
        {"class_names": ["a"], "evaluation": {}},
        {"class_names": ["a"], "evaluation": {}, "category_ids": 5},
        {"class_names": ["a"], "evaluation": {}, "category_ids": ["1"]},
        {"class_names": ["a"], "evaluation": {}, "category_ids": [1, 2]},
        {"class_names": ["a"], "evaluation": {"short_side": "5"}, "category_ids": None},
        {"class_names": ["a"], "evaluation": {"score_threshold": "5"}, "category_ids": None},
        {"class_names": ["a"], "evaluation": {"sizes": 5}, "category_ids": None},
    ],
    ids=str,
)
def test_other_plain_values_are_refused(content):
    with pytest.raises((KeyError, TypeError, ValueError)):
        DetectionServing.from_plain(content)


def answer_of(count):
    scores = np.linspace(0.9, 0.4, count, dtype=np.float32)
    boxes = np.tile(np.array([2, 3, 12.25, 30], np.float32), (count, 1))
    return {"boxes": boxes, "scores": scores, "labels": np.arange(count, dtype=np.int32) % 4}


def test_an_answer_is_described_by_its_best_objects():
    assert SERVING.describe(answer_of(0)) == "no object"
    assert SERVING.describe(answer_of(2)) == "person 90%, žába 40%"
    assert SERVING.describe(answer_of(6)) == "person 90%, žába 80%, bus 70%, kite 60%, person 50% and 1 more"


def test_results_are_in_cocos_format(tmp_path):
    """COCO's own tool reads them."""
    image = np.zeros((20, 30, 3), np.uint8)
    answer = answer_of(3) | {"masks": np.ones((3, 28, 28), np.float32)}
    first, second, third = SERVING.results("000042", image, answer)
    assert (first["image_id"], first["category_id"], second["category_id"], third["category_id"]) == (42, 1, 7, 90)
    assert first["bbox"] == [3, 2, 27, 10.25]
    assert (first["score"], third["score"]) == (0.9, 0.4)
    assert first["segmentation"]["size"] == [20, 30]
    expected = np.zeros((20, 30), bool)
    expected[2:12, 3:30] = True
    np.testing.assert_array_equal(mask.decode(json.loads(json.dumps(first["segmentation"]))), expected)
    answer["scores"] += np.float32(1e-7) * np.arange(3)
    again = json.loads(json.dumps(SERVING.results("42", image, answer)))
    assert [np.float32(result["score"]) for result in again] == answer["scores"].tolist(), "no score is rounded"
    plain = DetectionServing(BOX_NAMES, EVALUATION)
    (only,) = plain.results("a7", image, answer_of(1))
    assert only == {"image_id": "a7", "category_id": 1, "bbox": [3, 2, 27, 10.25], "score": 0.9}
