"""One rule for types, read from the source: every public function, method and constructor says all of them.

Public is what has no leading underscore, in its own name and in its class's. Keras' own methods of layers, and `macs`
beside them, follow Keras, which has no types: in a class of tfvt/layers these are `build`, `call`,
`compute_output_shape`, `get_config` and `macs`, and no others.
"""

import ast
from pathlib import Path

from tests.extending_page import sections

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("tfvt", "trainers", "tfrecords_tools") for path in (ROOT / folder).rglob("*.py"))
KERAS_METHODS = {"build", "call", "compute_output_shape", "get_config", "macs"}


def public_functions(module, is_layers):
    """(name, parsed function, whether its first parameter is `self` or `cls`) of what the rule holds for."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if not isinstance(method, ast.FunctionDef) or (is_layers and method.name in KERAS_METHODS):
                    continue
                if method.name == "__init__" or not method.name.startswith("_"):
                    is_static = "staticmethod" in map(ast.unparse, method.decorator_list)
                    yield f"{node.name}.{method.name}", method, not is_static


def untyped(source, is_layers=False):
    """Public functions of a source that lack types, each with what lacks one."""
    found = []
    for name, function, is_bound in public_functions(ast.parse(source), is_layers):
        arguments = function.args
        parameters = [*arguments.posonlyargs, *arguments.args][is_bound:] + arguments.kwonlyargs
        parameters += [rest for rest in (arguments.vararg, arguments.kwarg) if rest is not None]
        missing = [parameter.arg for parameter in parameters if parameter.annotation is None]
        missing += ["return"] * (function.returns is None)
        found += [f"{name}: {', '.join(missing)}"] * bool(missing)
    return found


def test_public_functions_are_typed():
    found = []
    for path in FILES:
        is_layers = path.is_relative_to(ROOT / "tfvt" / "layers")
        missing = untyped(path.read_text(encoding="utf-8"), is_layers)
        found += [f"{path.relative_to(ROOT)}: {line}" for line in missing]
    assert not found
    assert len(FILES) > 100  # it has read the code


def test_the_pages_on_extending_follows_the_rule():
    blocks = [block for _, blocks in sections() for block in blocks if block["new"] or block["end"]]
    assert len(blocks) == 6
    assert [line for block in blocks for line in untyped(block["code"], "layers" in (block["file"] or ""))] == []


def test_the_rule_sees_what_is_missing():
    source = """
def whole(a: int, *rest: int, key: str = "", **others: int) -> None: ...
def partly(a, b: int, *rest, key=None, **others): ...
def _private(a): ...
class Layer:
    def __init__(self, a): ...
    def call(self, x): ...
    def other(self, x) -> int: ...
    def _private(self, x): ...
    @staticmethod
    def static(x) -> int: ...
    @property
    def size(self): ...
class _Private:
    def method(self, x): ...
"""
    found = ["partly: a, key, rest, others, return", "Layer.__init__: a, return", "Layer.call: x, return"]
    found += ["Layer.other: x", "Layer.static: x", "Layer.size: return"]
    assert untyped(source) == found
    assert untyped(source, is_layers=True) == [line for line in found if not line.startswith("Layer.call")]
