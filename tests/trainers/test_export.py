"""`tfvt export --format`: where files go, and what it refuses. tests/export has what is in them."""

import importlib.util
import shutil

import keras
import numpy as np
import pytest

from tfvt.data.records import MANIFEST
from tfvt.trainers.cli import main
from tfvt.trainers.export import RUNTIMES


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_keras_file_in_the_runs_folder(run, capsys):
    assert main(["export", str(run), "--format", "keras"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Keras: {run}/exported/model.keras", f"Card: {run}/exported/README.md"]
    assert keras.models.load_model(run / "exported" / "model.keras", compile=False).output_shape == (None, 6)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--format", "onnx", "--max_pixels", "9"], "--max_pixels is for savedmodel, which decodes images; onnx takes"),
        (["--format", "tflite"], "argument --format: invalid choice: 'tflite'"),
        (["--quantize", "int8"], "--quantize int8 is not offered for savedmodel and a convolutional net: leave it out"),
        (["--format", "onnx", "--quantize", "float16"], "convolutional net: choose int8, or leave it out"),
    ],
)
def test_what_is_refused_leaves_nothing(words, line, run, fails):
    assert line in fails("export", run, *words)
    assert not (run / "exported").exists()


def test_a_taken_output_and_a_missing_package_are_one_line(run, fails, monkeypatch):
    taken = run / "serving.json"
    assert f"{taken} exists: choose another output" in fails("export", run, taken, "--format", "onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = fails("export", run, "--format", "litert")
    assert line.endswith("ai_edge_litert is not installed: pip install 'tfvt[export]'")


def test_accuracy_is_not_measured_on_other_classes(run, records, tmp_path, fails):
    others = shutil.copytree(records, tmp_path / "others")
    manifest, recipe = others / MANIFEST, run / "recipe.yaml"
    manifest.write_text(manifest.read_text().replace('"red"', '"pink"'))
    recipe.write_text(recipe.read_text().replace(str(records), str(others)))
    line = fails("export", run, "--format", "litert", "--quantize", "dynamic")
    assert line.endswith(f"{others} has other classes than the run was trained on (6 and 6, or other names)")
    assert not (run / "exported").exists()


def test_a_damaged_validation_record_leaves_a_file_and_its_card(run, records, tmp_path, capsys, monkeypatch):
    """The writer and the runtime stand aside: what is asked is what holds when the accuracy cannot be measured."""
    others, recipe, output = shutil.copytree(records, tmp_path / "others"), run / "recipe.yaml", tmp_path / "m.tflite"
    shard = next(others.glob("validation*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    recipe.write_text(recipe.read_text().replace(str(records), str(others)))

    def write(network, path, quantize):
        path.write_bytes(b"of the converter")

    logits = np.zeros((1, 6), np.float32)
    monkeypatch.setitem(RUNTIMES, "litert", (write, lambda path: lambda inputs: {"logits": logits}, "model"))
    assert main(["export", str(run), str(output), "--format", "litert", "--quantize", "dynamic"]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"LiteRT: {output}", f"Card: {tmp_path}/README.md"]
    assert said.err.startswith(f"tfvt export: error: {output} is written, and its accuracy cannot be measured: ")
    assert shard.name in said.err
    assert output.read_bytes() == b"of the converter"
