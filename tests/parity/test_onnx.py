"""Models exported by Keras to ONNX, run by onnxruntime."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tests.models.mask_rcnn_scenes import small
from tests.models.test_detection import answers
from tests.models.test_retinanet import TINY
from tfvt.models.detection import DetectionSettings, detector

pytestmark = pytest.mark.parity

SMALL = {
    "vit_tiny16": {"blocks": ({"layers": 2, "hidden_dim": 64, "mlp_dim": 128},)},
    "funnel_vit_base16_6_6": {
        "blocks": (
            {"layers": 1, "hidden_dim": 64, "mlp_dim": 128},
            {"layers": 1, "hidden_dim": 64, "mlp_dim": 128, "stride": 2},
        )
    },
}


@pytest.mark.filterwarnings("ignore")  # tf2onnx gives many
@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@pytest.mark.parametrize("name", SMALL)
def test_logits_of_an_onnx_export(name, gelu, tmp_path):
    import onnxruntime

    model = tfvt.create_model(name, gelu=gelu, num_classes=5, input_shape=(64, 48, 3), **SMALL[name])
    generator = np.random.default_rng(0)
    for weight in model.weights:  # far from the start, where biases are zero
        weight.assign(weight + 0.05 * generator.normal(size=weight.shape))
    pixels = generator.integers(0, 256, (3, 64, 48, 3)).astype("float32")
    expected = np.asarray(model(pixels))
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})

    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.filterwarnings("ignore")
def test_boxes_of_an_onnx_export(tmp_path):
    """A detector's file ends in boxes: of any number of images of any size, padded or not."""
    import keras
    import onnxruntime

    keras.utils.set_random_seed(0)
    options = TINY | {"extra_levels": 1, "input_shape": (None, None, 3)}
    model = tfvt.create_model("retinanet_resnet50", num_classes=3, **options)
    scenes = {size: contracts.random_images((2, *size, 3)) for size in ((51, 66), (64, 40))}
    answers(model, scenes[51, 66])
    whole = detector(model, DetectionSettings(candidates=50, score_threshold=0.4, max_detections=20))
    inputs = {size: {"image": images, "size": np.array([size, (30, 37)], "int32")} for size, images in scenes.items()}
    expected = {size: {key: np.asarray(v) for key, v in whole(given).items()} for size, given in inputs.items()}
    whole.export(tmp_path / "detector.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["boxes", "labels", "scores"]
    for size, given in inputs.items():
        found = dict(zip(names, session.run(None, given), strict=True))
        assert (found["labels"] >= 0).sum(axis=1).min() > 3
        np.testing.assert_array_equal(found["labels"], expected[size]["labels"])
        np.testing.assert_allclose(found["scores"], expected[size]["scores"], atol=1e-5)
        np.testing.assert_allclose(found["boxes"], expected[size]["boxes"], atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_masks_of_an_onnx_export(tmp_path):
    """Both stages, suppression of proposals and of boxes, and masks; also of an image in which nothing is found."""
    import keras
    import onnxruntime

    keras.utils.set_random_seed(0)
    model = small(input_shape=(None, None, 3))
    for layer in model.layers:  # scores far from each other
        if layer.name.startswith(("head_class", "head_mask")):
            rng = np.random.default_rng(0)
            layer.set_weights([rng.normal(scale=0.3, size=weight.shape) for weight in layer.get_weights()])
    whole = detector(model, DetectionSettings(candidates=50, score_threshold=0.2, max_detections=10))
    given = {"image": contracts.random_images((2, 51, 66, 3)), "size": np.array([[51, 66], [30, 37]], "int32")}
    expected = {key: np.asarray(value) for key, value in whole(given).items()}
    whole.export(tmp_path / "detector.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, given), strict=True))
    assert (found["labels"][0] >= 0).sum() > 3
    assert (found["labels"][1] == -1).all()
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    for key, tolerance in (("scores", 1e-5), ("boxes", 1e-3), ("masks", 1e-4)):
        np.testing.assert_allclose(found[key], expected[key], atol=tolerance)
