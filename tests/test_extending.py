"""What docs/extending*.md add works as printed, and touches the places that they count."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.extending_page import ROOT, sections

# Section -> the kinds of its changes, as the table at the top of the page counts them; and what its lines print.
EXPECTED = {
    "A variant": (["line"], "resnet14"),
    "A tokenizer": (["lines", "line", "line"], "GatedTokenizer name=vt1_tokenizer"),
    "Add a backbone family": (
        ["new", "lines"],
        "['plain_cnn3', 'plain_cnn4']\n{'P2': (None, 56, 56, 64), 'P4': (None, 14, 14, 256)}",
    ),
    "Add a task": (["new", "new", "lines"], "tfvt.trainers.tasks.mean_colour.MeanColour"),
}


@pytest.fixture
def checkout(tmp_path):
    """The packages, laid out as they are installed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tfvt", tmp_path / "tfvt", ignore=ignored)
    for name in ("trainers", "configs", "tfrecords_tools"):
        shutil.copytree(ROOT / name, tmp_path / "tfvt" / name, ignore=ignored)
    return tmp_path


def change(checkout, block):
    """Make one change of the page, and tell its kind."""
    path = checkout / "tfvt" / (block["new"] or block["file"]).removeprefix("tfvt/")
    if block["new"]:
        assert not path.exists()
        path.write_text(block["code"])
        return "new"
    text = path.read_text()
    if block["end"]:
        text += f"\n\n{block['code']}"
    else:
        assert text.count(block["anchor"]) == 1
        text = text.replace(block["anchor"], f"{block['anchor']}\n{block['code'].rstrip()}")
    path.write_text(text)
    return "line" if block["code"].count("\n") == 1 else "lines"


@pytest.mark.parametrize(("title", "blocks"), sections(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_page_runs_as_printed(title, blocks, checkout):
    *changes, run = blocks
    kinds, printed = EXPECTED[title]
    assert [change(checkout, block) for block in changes] == kinds
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    script = f"import tfvt; assert tfvt.__file__.startswith({str(checkout)!r})\n{run['code']}"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert printed in result.stdout


def test_every_section_is_run():
    assert [title for title, _ in sections()] == list(EXPECTED)
