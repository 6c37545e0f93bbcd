"""Files of the other runtimes beside Keras: what a file gives must be what the model gives."""

import numpy as np

import tests.contracts as contracts
from tfvt.export import (
    conversion,
    export_litert,
    export_onnx,
    export_openvino,
    open_litert,
    open_onnx,
    open_openvino,
)
from tfvt.models.detection import DetectionSettings, detector

RUNTIMES = {
    "onnx": (export_onnx, open_onnx),
    "openvino": (export_openvino, open_openvino),
    "litert": (export_litert, open_litert),
}
TOLERANCE = 1e-4  # of the largest number of an output, or of 1


def spread(model):
    """Weights far from the start, where biases are zero and norms do nothing."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if "moving_variance" in weight.path:
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
        elif weight.dtype == "float32":
            weight.assign(weight + 0.05 * generator.normal(size=weight.shape))


def whole_detector(model):
    """The detector over a detection model; no box falls away by its score."""
    return detector(model, DetectionSettings(candidates=50, score_threshold=0.0, max_detections=10))


def check_file(model, file_format, folder, sizes):
    """The file of a model gives Keras' numbers, of one image and of five, at each size."""
    write, open_file = RUNTIMES[file_format]
    run = open_file(write(model, folder / "file"))
    for size in sizes:
        for batch in (1, 5):
            given = contracts.random_images((batch, *size, 3))
            if len(model.inputs) > 1:
                given = {"image": given, "size": np.tile(np.array([size], "int32"), (batch, 1))}
            expected = conversion.named_outputs(model, model(given))
            found = run(given)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                value = np.asarray(value)
                atol = TOLERANCE * max(1, np.abs(value).max())
                np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=f"{name} {size} {batch}")
