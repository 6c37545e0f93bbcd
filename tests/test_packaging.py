"""What the commands of the README install, and what they may need."""

import ast
import fnmatch
import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tfvt

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


def test_the_version_is_the_distributions():
    assert tfvt.__version__ == importlib.metadata.version("tfvt")
    assert Version(tfvt.__version__) >= Version("0.1.dev0")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert Version(project["tool"]["setuptools_scm"]["fallback_version"]).is_devrelease  # no copy passes for a release


def test_the_citation_names_tfvt_and_the_four_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # the format's required keys
    papers = citation["references"]
    assert all({"type", "title", "authors"} <= paper.keys() for paper in papers)
    assert [(paper["authors"][0]["family-names"], len(paper["authors"]), paper.get("year")) for paper in papers] == [
        ("Wu", 10, 2021), ("Pan", 7, 2022), ("Dosovitskiy", 12, 2021), ("Zhang", 1, None)
    ]  # fmt: skip


@pytest.fixture
def given_to_setup(monkeypatch):
    """The arguments that setup.py gives to setuptools."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return arguments


def test_the_description_links_nowhere_into_the_repository(given_to_setup):
    readme, description = (ROOT / "README.md").read_text(encoding="utf-8"), given_to_setup["long_description"]
    assert "](docs/" in readme
    assert re.findall(r"\]\((?!https?:)[^)]*\)", description) == []
    assert re.findall(r"```.*?```", description, re.DOTALL) == re.findall(r"```.*?```", readme, re.DOTALL)
    words = [re.findall(r"\w+", re.sub(r"\]\([^)]*\)", "", text)) for text in (readme, description)]
    assert words[0] == words[1]


def test_every_file_of_the_packages_is_installed(given_to_setup):
    packages, left_out = set(given_to_setup["packages"]), []
    for package, folder in given_to_setup["package_dir"].items():
        data = given_to_setup["package_data"].get(package, [])
        for path in (path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.*")):
            owned = path.suffix == ".py" and ".".join([package, *path.parts[:-1]]) in packages
            named = any(fnmatch.fnmatchcase(path.as_posix(), pattern) for pattern in data)
            left_out += [] if owned or named or "__pycache__" in path.parts else [f"{folder}/{path}"]
    assert left_out == []


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel_as_the_tree_without_git(tmp_path):
    shutil.copytree(
        ROOT, tmp_path / "tree", ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "runs", "tests")
    )
    build = [sys.executable, "-m", "uv", "build", "--offline", "--no-build-isolation", "--python", sys.executable]
    for flags in (["--out-dir", "packed"], ["--wheel", "--out-dir", "direct"]):  # the first: a wheel of the sdist
        subprocess.run([*build, *flags], cwd=tmp_path / "tree", check=True, capture_output=True)
    wheels = [contents(next((tmp_path / "tree" / folder).glob("*.whl"))) for folder in ("packed", "direct")]
    assert wheels[0] == wheels[1]
    names = {name for name, _ in wheels[0]}
    assert {"tfvt_cli.py", "tfvt/trainers/cli.py", "tfvt/configs/vt_resnet18.yaml", "tfvt/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {"tfvt", "tfvt_cli.py", "tfvt-0.1.dev0.dist-info"}


def contents(wheel):
    """Names and checksums of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted((info.filename, info.CRC) for info in archive.infolist())
