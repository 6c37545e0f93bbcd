"""Models exported by Keras to ONNX, run by onnxruntime."""

import numpy as np
import pytest

import tfvt

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
