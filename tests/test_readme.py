"""The README's commands and lines run as printed, and its table says what the models have."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import tfvt
from benchmarks.counting import profile_of
from tests.pages import torchvision_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the README supposes: images in class folders, recipes, trained weights."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3)):
        for label in ("cat", "dog"):
            (folder / "images" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / label / f"{i}.jpg")
    save_file(torchvision_names(tfvt.create_model("resnet50")), folder / "resnet50.safetensors")
    return folder


def run(language, code, folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{code}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_every_block_runs_as_printed(workplace):
    """One after the other, as a reader would: later blocks use what earlier ones wrote."""
    outputs = [run(language, code, workplace) for language, code in BLOCKS]
    expected = ["vt_resnet18", "records", "Validation: top-1", "loaded,", "dog"]
    assert len(outputs) == len(expected)
    for text, output in zip(expected, outputs, strict=True):
        assert text in output
    assert (workplace / "served" / "saved_model.pb").is_file()
    assert (workplace / "runs" / "first" / "final.keras").is_file()


def test_the_tables_say_what_the_models_have():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|[^|]*\| ([\d,]+) \|", README, flags=re.MULTILINE)
    assert len(rows) >= 19
    for name, params, macs in rows:
        profile = profile_of(name)
        counts_norms = not name.startswith(("resnet", "vt_resnet"))
        ours = profile.params if counts_norms else profile.params_without_norms
        assert (f"{ours:,}", f"{profile.macs:,}") == (params, macs)


def anchors(page):
    """The anchors that forges and the site give the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def without_code(page):
    """The text of a page without its blocks: code may index and call."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_links_lead_somewhere():
    for page in PAGES:
        targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", without_code(page))
        for target, anchor in targets:
            place = (page.parent / target).resolve() if target else page
            assert place.exists(), (page.name, target)
            assert not anchor or anchor in anchors(place), (page.name, target, anchor)


def test_pages_are_short():
    """A page that passes 150 lines is two pages; `make fidelity` writes the one that is longer."""
    lengths = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES[1:]}
    assert {name: length for name, length in lengths.items() if length > 150 and name != "fidelity.md"} == {}


def test_the_demo_and_the_test_command_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)$|`make ([\w-]+)`", README, flags=re.MULTILINE)
    assert len(targets) > 5
    for target in map("".join, targets):
        assert f"\n{target}: " in makefile
