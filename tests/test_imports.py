"""The library without TensorFlow, and which modules may import it."""

import ast
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# TensorFlow appears here and nowhere else; everywhere else it may be imported inside a function that reads a file.
MAY_IMPORT_TENSORFLOW = ("tfvt/data/", "tfvt/export/", "trainers/", "tfrecords_tools/")

# What a folder may import of the library.
LIBRARY_IMPORTS = {
    "tfvt/layers/": ("tfvt.layers", "tfvt.checks"),
    "tfvt/models/": ("tfvt.layers", "tfvt.models", "tfvt.registry", "tfvt.checks"),
    "tfvt/data/": ("tfvt.data", "tfvt.checks", "tfvt.errors", "tfvt.stores"),
}

WITHOUT_TENSORFLOW = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tf_keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())

import keras
import numpy as np
import tfvt

options = {"input_shape": (64, 64, 3), "num_classes": 3, "depths": (1, 1), "width": 8}
source = tfvt.create_model("resnet18", **options)
weights = {w.path: keras.ops.convert_to_numpy(w) for w in source.weights}
model = tfvt.create_model("resnet18", weights=weights, **options)
images = np.full((1, 64, 64, 3), 7.0, "float32")
np.testing.assert_array_equal(np.asarray(model(images)), np.asarray(source(images)))
tokens = tfvt.create_model("vt_resnet18", input_shape=(64, 64, 3), num_classes=3, depths=(1,), width=8)
attention = tfvt.analysis.token_attention(tokens, images)["vt1_tokenizer"]
np.testing.assert_allclose(attention.sum(axis=(1, 2)), 1, atol=1e-5)
print(len(tfvt.list_models()), tfvt.profile(model).params, "tensorflow" in sys.modules)
"""


def test_the_library_works_where_tensorflow_cannot_be_imported():
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    models, params, imported = result.stdout.split()
    assert int(models) >= 10
    assert int(params) > 1000
    assert imported == "False"


def library_modules():
    folders = ("tfvt", "trainers", "tfrecords_tools")
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", library_modules(), ids=str)
def test_imports_follow_the_architecture(path):
    """Layers <- models <- {checkpoints, analysis}; data <- {trainers, tfrecords_tools, export}; no way back."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    at_module_level = {name for node in tree.body for name in imported_names(node)}
    anywhere = {name for node in ast.walk(tree) for name in imported_names(node)}
    name = path.as_posix()
    if not name.startswith(MAY_IMPORT_TENSORFLOW):
        assert not {n for n in at_module_level if n.split(".")[0] in ("tensorflow", "torch", "jax", "transformers")}
    if name.startswith("tfvt/"):
        assert not {n for n in anywhere if n.startswith(("tfvt.trainers", "tfvt.tfrecords_tools"))}
    for folder, allowed in LIBRARY_IMPORTS.items():
        if name.startswith(folder):
            assert {n for n in anywhere if n.startswith("tfvt") and not n.startswith(allowed)} == set()


def imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        if node.module == "tfvt":
            return [f"tfvt.{alias.name}" for alias in node.names]
        return [node.module]
    return []


@pytest.mark.parametrize(
    "package", ["tfvt", "tfvt.analysis", "tfvt.checkpoints", "tfvt.data", "tfvt.layers", "tfvt.models"]
)
def test_no_export_hides_a_module(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        if importlib.util.find_spec(f"{package}.{name}"):
            assert inspect.ismodule(getattr(module, name)), f"{package}.{name}"
