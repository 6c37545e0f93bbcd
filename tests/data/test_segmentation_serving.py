"""The SavedModel of a segmentation model: label maps and probabilities at the images' own sizes."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from mask_model import MASK_NAMES, mask_model
from photographs import as_seen, photograph_on_its_side
from PIL import Image

from tfvt.data import segmentation_serving
from tfvt.data.segmentation import SegmentationEvaluation
from tfvt.data.segmentation_serving import SegmentationServing
from tfvt.export import export_saved_model
from tfvt.folding import fuse
from tfvt.trainers.recipes.plain import as_plain

WHOLE = SegmentationEvaluation(scale=(96, 64), size_multiple=32)
SLIDE = SegmentationEvaluation(mode="slide", window=(64, 48), stride=(43, 32), scales=(0.75, 1.0), flip=True)


def encoded(height, width, file_format="PNG", seed=0, mode="RGB"):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(file, file_format)
    return file.getvalue()


@pytest.fixture(scope="module")
def model():
    return fuse(mask_model())  # as it is written


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """A loaded SavedModel for each evaluation."""
    folder = tmp_path_factory.mktemp("served")
    loaded = {}
    for name, evaluation in (("whole", WHOLE), ("slide", SLIDE)):
        path = export_saved_model(model, folder / name, SegmentationServing(MASK_NAMES, evaluation), max_pixels=20_000)
        loaded[name] = tf.saved_model.load(path)
    return loaded


IMAGES = [encoded(75, 110), encoded(101, 33, "JPEG", 1), encoded(64, 64, "PNG", 2, "L"), encoded(20, 150, "WEBP", 3)]


@pytest.mark.parametrize(("name", "evaluation"), [("whole", WHOLE), ("slide", SLIDE)])
def test_label_maps_are_those_of_the_library_bit_for_bit(name, evaluation, model, served):
    serving = SegmentationServing(MASK_NAMES, evaluation)
    answer = served[name].signatures["serving_default"](image=tf.constant(IMAGES))
    label_map, sizes = answer["label_map"].numpy(), answer["size"].numpy()
    assert (label_map.shape, label_map.dtype) == ((4, 101, 150), np.uint8)
    assert sizes.tolist() == [[75, 110], [101, 33], [64, 64], [20, 150]]
    maps = serving.label_maps(model)
    for image, (height, width), found in zip(IMAGES, sizes, label_map, strict=True):
        pixels = serving.decode(tf.constant(image))
        assert pixels.shape == (height, width, 3)
        expected = maps(pixels).numpy()
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(found[:height, :width], expected)
        assert (found[height:] == 255).all()
        assert (found[:, width:] == 255).all()
    alone = served[name].signatures["serving_default"](image=tf.constant(IMAGES[1:2]))
    np.testing.assert_array_equal(alone["label_map"][0], label_map[1, :101, :33])


def test_decoded_images_have_the_label_maps_of_their_files(served):
    signatures = served["whole"].signatures
    file = encoded(75, 110)
    pixels = np.asarray(Image.open(io.BytesIO(file)))
    expected = signatures["serving_default"](image=tf.constant([file, file]))
    actual = signatures["image"](image=tf.constant(np.stack([pixels, pixels])))
    for name in ("label_map", "size"):
        np.testing.assert_array_equal(actual[name], expected[name])
    assert [name.decode() for name in signatures["class_names"]()["class_names"].numpy()] == list(MASK_NAMES)


def test_a_turned_photograph_has_its_label_map_upright(served):
    stored = Image.open(io.BytesIO(encoded(75, 110))).transpose(Image.Transpose.ROTATE_90)
    photograph = photograph_on_its_side(stored, 6)
    turned = np.asarray(as_seen(photograph))
    answer = served["whole"].signatures["serving_default"](image=tf.constant([photograph]))
    expected = served["whole"].signatures["image"](image=tf.constant(turned[None]))
    assert answer["size"].numpy().tolist() == [[75, 110]]
    np.testing.assert_array_equal(answer["label_map"], expected["label_map"])


def test_probabilities_are_a_signature_of_their_own(model, served):
    answer = served["whole"].signatures["probabilities"](image=tf.constant(IMAGES[:2]))
    probabilities = answer["probabilities"].numpy()
    assert probabilities.shape == (2, 101, 110, len(MASK_NAMES))
    maps = SegmentationServing(MASK_NAMES, WHOLE).label_maps(model)
    pixels = np.asarray(Image.open(io.BytesIO(IMAGES[0])))
    np.testing.assert_allclose(probabilities[0, :75], maps.probabilities(pixels), atol=1e-6)
    np.testing.assert_allclose(probabilities[0, :75].sum(-1), 1, atol=1e-5)
    assert (probabilities[0, 75:] == 0).all()


def test_the_signatures_are_those_of_the_page(served):
    described = {
        name: {output: (spec.dtype.name, spec.shape.as_list()) for output, spec in signature.structured_outputs.items()}
        for name, signature in served["whole"].signatures.items()
    }
    assert described == {
        "serving_default": {"label_map": ("uint8", [None, None, None]), "size": ("int32", [None, 2])},
        "image": {"label_map": ("uint8", [None, None, None]), "size": ("int32", [None, 2])},
        "class_names": {"class_names": ("string", [len(MASK_NAMES)])},
        "probabilities": {
            "probabilities": ("float32", [None, None, None, len(MASK_NAMES)]),
            "size": ("int32", [None, 2]),
        },
    }


def test_what_cannot_be_answered_fails_the_request(served):
    serve = served["whole"].signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="image 1 of the request has 201 x 100 pixels: the limit"):
        serve(image=tf.constant([IMAGES[0], encoded(100, 201)]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the request holds no image"):
        serve(image=tf.zeros((0,), tf.string))
    whole = encoded(40, 40, "JPEG")
    for damaged in (b"text", b"", whole[: len(whole) // 2]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(image=tf.constant([damaged]))


def test_answers_that_no_message_can_hold_fail_the_request(model, tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation_serving, "MOST_BYTES", 30_000)
    path = export_saved_model(model, tmp_path / "served", SegmentationServing(MASK_NAMES, WHOLE))
    signatures = tf.saved_model.load(path).signatures
    tall, wide = encoded(200, 10), encoded(10, 200)
    assert signatures["serving_default"](image=tf.constant([tall] * 9))["label_map"].shape == (9, 200, 10)
    words = r"all padded to the height and the width of the largest, take.*80000.*the limit is 30000. Send fewer"
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        signatures["serving_default"](image=tf.constant([tall, wide]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="has 10 x 200 pixels: the limit is 1500"):
        signatures["probabilities"](image=tf.constant([tall]))  # before it is decoded


def test_every_weight_is_written_once(tmp_path):
    model = mask_model(pyramid_channels=256, head_channels=128)
    path = export_saved_model(model, tmp_path / "served", SegmentationServing(MASK_NAMES, WHOLE))
    weights = sum(weight.numpy().nbytes for weight in model.variables)
    assert weights > 10e6
    assert weights < sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 1.4 * weights


def test_a_model_that_does_not_match_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="4 class names for a model with 5 classes"):
        export_saved_model(model, tmp_path / "served", SegmentationServing(MASK_NAMES[:4], WHOLE))
    fixed = mask_model(input_shape=(64, 96, 3))
    for evaluation in (
        WHOLE,
        SegmentationEvaluation(),
        SegmentationEvaluation(mode="slide", window=(65, 96), stride=(32, 32)),
    ):
        with pytest.raises(ValueError, match=r"was built for images of \(64, 96\): evaluate with mode slide"):
            export_saved_model(fixed, tmp_path / "served", SegmentationServing(MASK_NAMES, evaluation))
    assert list(tmp_path.iterdir()) == []
    SegmentationServing(MASK_NAMES, SegmentationEvaluation(mode="slide", window=(64, 96), stride=(64, 96))).check(fixed)
    SegmentationServing(MASK_NAMES, SegmentationEvaluation(scale=(64, 64))).check(fixed)


def test_a_model_of_one_size_is_served_through_windows(tmp_path):
    fixed, evaluation = (
        mask_model(input_shape=(64, 96, 3)),
        SegmentationEvaluation(mode="slide", window=(64, 96), stride=(64, 96)),
    )
    path = export_saved_model(fixed, tmp_path / "served", SegmentationServing(MASK_NAMES, evaluation))
    answer = tf.saved_model.load(path).signatures["serving_default"](image=tf.constant(IMAGES[:2]))
    assert answer["size"].numpy().tolist() == [[75, 110], [101, 33]]  # one larger and one narrower than the model
    assert (answer["label_map"][1, :101, :33] < len(MASK_NAMES)).numpy().all()


def test_plain_values_give_the_same_object():
    for evaluation in (WHOLE, SLIDE):
        serving = SegmentationServing(MASK_NAMES, evaluation)
        assert SegmentationServing.from_plain(json.loads(json.dumps(as_plain(serving)))) == serving


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"class_names": "abc", "evaluation": {}},
        {"class_names": [1], "evaluation": {}},
        {"class_names": ["a"], "evaluation": []},
        {"class_names": ["a"], "evaluation": {"scale": 5}},
        {"class_names": ["a"], "evaluation": {"window": [4]}},
        {"class_names": ["a"], "evaluation": {"mode": "all"}},
        {"class_names": ["a"], "evaluation": {"size_multiple": "32"}},
        {"class_names": ["a"], "evaluation": {"scales": ["1"]}},
        {"class_names": ["a"], "evaluation": {"sizes": [1]}},
    ],
    ids=str,
)
def test_other_plain_values_are_refused(content):
    with pytest.raises((KeyError, TypeError, ValueError)):
        SegmentationServing.from_plain(content)


def test_an_answer_is_described_by_its_largest_classes():
    label_map = np.repeat([0, 1, 2, 3, 4], [5, 1, 2, 9, 3]).astype(np.uint8)[None]
    serving = SegmentationServing((*MASK_NAMES, "sea"), WHOLE)
    assert serving.describe({"label_map": label_map}) == "road 45.0%, sky 25.0%, car 15.0%, žába 10.0%, roof 5.0%"
    label_map[0, 0] = 5
    assert serving.describe({"label_map": label_map}).endswith("roof 5.0% and 1 more")
