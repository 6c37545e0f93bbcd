"""One rule for types: what a package exports has them, functions, constructors and public methods alike.

Methods that Keras defines for its layers have its signatures, which are without types.
"""

import importlib
import inspect

import keras
import pytest

from tfvt.registry import get_variant, list_models

PACKAGES = [
    "tfvt",
    "tfvt.analysis",
    "tfvt.checkpoints",
    "tfvt.data",
    "tfvt.layers",
    "tfvt.trainers.engines",
    "tfvt.trainers.recipes",
    "tfvt.trainers.tasks",
    "tfvt.tfrecords_tools",
]
MODULES = ["tfvt.create", "tfvt.errors", "tfvt.export", "tfvt.files", "tfvt.registry", "tfvt.models.options"]


def public_functions(name):
    """Name -> function, of a module's own public functions and the public methods of its classes."""
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
    found = {}
    for export in exported:
        value = getattr(module, export)
        if inspect.isfunction(value) and value.__module__.startswith("tfvt"):
            found[export] = value
        elif inspect.isclass(value) and value.__module__.startswith("tfvt"):
            layer = issubclass(value, keras.layers.Layer)
            methods = [n for n in vars(value) if n == "__init__" or not (layer or n.startswith("_"))]
            found |= {f"{export}.{n}": vars(value)[n] for n in methods if inspect.isfunction(vars(value)[n])}
    return found


@pytest.mark.parametrize("name", PACKAGES + MODULES)
def test_exports_are_typed(name):
    untyped = []
    for label, function in public_functions(name).items():
        signature = inspect.signature(function)
        missing = [
            p
            for p, parameter in signature.parameters.items()
            if parameter.annotation is parameter.empty and p != "self"
        ]
        missing += ["return"] * (signature.return_annotation is signature.empty)
        untyped += [f"{label}: {', '.join(missing)}"] * bool(missing)
    assert not untyped


def test_builders_are_typed():
    for name in list_models():
        signature = inspect.signature(get_variant(name).builder)
        assert all(p.annotation is not p.empty for p in signature.parameters.values())
