"""What the commands of the README install, and what they may need."""

import ast
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
# What `make test-parity` installs and `make test` does not.
PARITY = {"apache_beam", "official", "onnx", "onnxruntime", "tensorflow_datasets", "tensorflow_hub", "timm", "torch"}
PARITY |= {"ai_edge_litert", "keras_hub", "openvino", "tf2onnx", "transformers"}


def dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in pinned}


def test_one_lock_pins_every_dependency_of_every_extra():
    pinned = pins()
    for requirement in dependencies():
        (exact,) = pinned[canonicalize_name(requirement.name)].specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), requirement


def test_the_lock_names_no_place():
    """A lock with an index or a file in it would hold for one machine."""
    assert re.findall(r"://|file:|^-", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE) == []


def test_only_tests_marked_parity_import_what_parity_installs():
    offenders = []
    for path in (ROOT / "tests").rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if path.parent.name == "parity":  # its conftest keeps the other runs out
            marks = [line for line in map(ast.unparse, body) if line.startswith("pytestmark = ")]
            # The values come from processes of their own, which the marked tests start.
            others = ("conftest.py", "mask_rcnn_scene.py", "mask_rcnn_values.py", "retinanet_values.py")
            marked = path.name in others or "pytest.mark.parity" in "".join(marks)
            offenders += [] if marked else [path.name]
            continue
        for node in body:
            marked = any("pytest.mark.parity" in ast.unparse(line) for line in getattr(node, "decorator_list", ()))
            offenders += [] if marked or not imported_by(node) & PARITY else [f"{path.name}:{node.lineno}"]
    assert offenders == []


def imported_by(node):
    """The packages that a statement imports, `pytest.importorskip` and the functions in it included."""
    names = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            names += [alias.name for alias in inner.names]
        elif isinstance(inner, ast.ImportFrom) and not inner.level:
            names.append(inner.module)
        elif isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith(("importorskip", "import_module")):
            names += [argument.value for argument in inner.args if isinstance(argument, ast.Constant)]
    return {name.split(".")[0] for name in names}


def test_ci_begins_with_the_readmes_commands_in_its_order():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Two commands")[1].split("\n## ")[0]
    commands = re.search(r"```\n(.*?)```", section, re.DOTALL)[1].splitlines()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands == ["make demo", "make test"]
    assert re.findall(r"^make .*$", script, re.MULTILINE)[:2] == commands
    assert "export PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1" in script  # a new user has no caches
    assert re.search(r"\bpip install|\buv ", script) is None


def test_tests_and_demo_install_little():
    """The extras that the environments of `make demo` and `make test` take, and what pytest deselects there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    stamps = dict(re.findall(r"^\$\(VENV\)/\.(\w+):.*?-e '\.\[([\w,]+)\]'", makefile, re.MULTILINE | re.DOTALL))
    assert (stamps["demo"], stamps["test"]) == ("demo", "dev,jax,detection")
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert "not parity" in options["addopts"]
