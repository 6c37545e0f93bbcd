"""What a file of another runtime needs before it is made: names, refusals, a converter that crashes."""

import importlib.util
import subprocess

import keras
import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.export import conversion, export_keras, export_litert, export_onnx, export_openvino
from tfvt.export.litert import refusal
from tfvt.export.quantization import check_quantization, model_kind

EXPORTS = {"onnx": export_onnx, "openvino": export_openvino, "litert": export_litert}


@pytest.fixture(scope="module")
def convolutional():
    return tfvt.create_model("resnet18", num_classes=3, input_shape=(32, 32, 3), width=8, depths=(1,))


@pytest.fixture(scope="module")
def transformer():
    blocks = ({"layers": 2, "hidden_dim": 64, "mlp_dim": 256},)
    return tfvt.create_model("vit_tiny16", num_classes=3, input_shape=(32, 32, 3), blocks=blocks)


@pytest.fixture
def installed(monkeypatch):
    """All packages seem to be there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def ends(monkeypatch, status, said=b"", error=None):
    """Have converters end with a status, what they said, and the file of an error."""

    def run(command, **settings):
        if error:
            (conversion.Path(command[-1]) / conversion.ERROR).write_text(error, encoding="utf-8")
        return subprocess.CompletedProcess(command, status, said)

    monkeypatch.setattr(conversion.subprocess, "run", run)


def test_the_kind_of_a_model_is_that_of_most_weights(convolutional, transformer):
    assert model_kind(convolutional) == "convolutional net"
    assert model_kind(transformer) == "transformer"
    boxes = keras.Model(convolutional.inputs, {"boxes": convolutional.output})
    assert model_kind(boxes) == "detector"


@pytest.mark.parametrize(
    ("file_format", "quantize", "kind", "offered"),
    [
        ("savedmodel", "int8", "convolutional", ""),
        ("keras", "float16", "convolutional", ""),
        ("onnx", "dynamic", "convolutional", "choose int8, or "),
        ("onnx", "int8", "transformer", "choose dynamic, or "),
        ("openvino", "int8", "transformer", "choose float16, or "),
        ("openvino", "int8", "convolutional", "choose float16, or "),
        ("litert", "int8", "transformer", "choose float16 or dynamic, or "),
    ],
)
def test_what_is_not_offered_is_refused(file_format, quantize, kind, offered, request):
    words = f"^--quantize {quantize} is not offered for {file_format} and a {kind}.*: {offered}leave it out$"
    with pytest.raises(ValueError, match=words):
        check_quantization(file_format, quantize, request.getfixturevalue(kind))


@pytest.mark.parametrize("name", EXPORTS)
def test_a_bad_call_is_refused_before_anything_is_converted(name, convolutional, transformer, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_run", None)
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="taken exists: choose another output, or remove it first"):
        EXPORTS[name](convolutional, tmp_path / "taken")
    with pytest.raises(ValueError, match=f"--quantize int8 is not offered for {name} and a transformer"):
        EXPORTS[name](transformer, tmp_path / "new", quantize="int8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"is not installed: pip install 'tfvt\[export\]'"):
        EXPORTS[name](convolutional, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("status", "said", "error", "kind", "text"),
    [
        (-11, b"", None, RuntimeError, r"the onnx converter crashed \(SIGSEGV\), so this model cannot be exported"),
        (3, b"", None, RuntimeError, r"crashed \(exit status 3\)"),
        (1, b"", "ValueError\nlayer x: no operation y", ValueError, "^layer x: no operation y$"),
        (1, b"", "RuntimeError\nodd", RuntimeError, "^the onnx converter failed: odd$"),
        (1, b"", "OSError\n[Errno 28] full", OSError, r"the onnx converter cannot write: \[Errno 28\] full"),
        (-6, b"write: No space left on device", None, OSError, "the disk of .* is full"),
    ],
)
def test_a_converter_that_ends_early_is_one_line(
    status, said, error, kind, text, convolutional, tmp_path, monkeypatch, installed
):
    ends(monkeypatch, status, said, error)
    with pytest.raises(kind, match=text) as raised:
        export_onnx(convolutional, tmp_path / "model.onnx")
    assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_process_is_given_the_fused_model_and_the_calibration(convolutional, tmp_path, monkeypatch, installed):
    """The graph that converters read gives the model's numbers, under its names."""
    import tensorflow as tf

    images = contracts.random_images((2, 32, 32, 3))
    named = keras.Model(convolutional.inputs, {"logits": convolutional.output})
    expected = contracts.arrays(convolutional(images))[0]

    def read(folder, module):
        assert module == "litert"
        loaded = tf.saved_model.load(str(folder / conversion.SAVED_MODEL))
        infer = loaded.signatures[conversion.SIGNATURE]
        assert len(infer.variables) < len(convolutional.weights) / 2  # without those of the norms
        outputs = infer(image=tf.constant(images))
        np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)
        (batch,) = conversion.samples(folder)
        np.testing.assert_array_equal(batch["image"], images)
        (folder / conversion.RESULT).write_bytes(b"file")

    monkeypatch.setattr(conversion, "_run", read)
    path = export_litert(named, tmp_path / "model.tflite", quantize="int8", calibration=[images])
    assert path.read_bytes() == b"file"
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]


def test_litert_names_layer_and_operation_that_it_cannot_hold():
    place = "san10_1/stage1_block1_mixer_1/strided_slice_34@__inference_infer_129344"
    text = (
        f"""error: loc(callsite(fused["StridedSlice:", "{place}"] at callsite(fused["Call:", "Call@__inference"]))): """
    )
    text += "'tf.StridedSlice' op is neither a custom op nor a flex op"
    expected = (
        "LiteRT has no builtin operation for the StridedSlice of layer stage1_block1_mixer: choose onnx or openvino"
    )
    assert refusal(text, ["stage1_block1", "stage1_block1_mixer"]) == expected
    assert refusal("odd", []) == "LiteRT cannot hold this model: odd"


def test_a_keras_file_loads_and_gives_the_same_numbers(convolutional, tmp_path):
    images = contracts.random_images((2, 32, 32, 3))
    loaded = keras.models.load_model(export_keras(convolutional, tmp_path / "model.keras"), compile=False)
    np.testing.assert_array_equal(*(contracts.arrays(model(images))[0] for model in (loaded, convolutional)))
    with pytest.raises(ValueError, match=r"model\.keras exists"):
        export_keras(convolutional, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
