"""docs/segmentation_serving.md's commands and lines run as printed."""

import ast
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from mask_run import write_mask_run
from PIL import Image

from tfvt.data.mask_pictures import MOST_LINES
from tfvt.trainers.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "segmentation_serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
ASK, LIBRARY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the page supposes: a run, and photographs."""
    write_mask_run(tmp_path / "runs" / "scenes")
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).resize((93, 61), Image.Resampling.BICUBIC).save(tmp_path / "photos" / "china.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_lines_run_as_printed(workplace, capsys):
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("tfvt", 0)
    files = re.findall(r"^\| `(\S+\.png)` \|", PAGE, re.MULTILINE)
    assert sorted(path.name for path in (workplace / "answers").iterdir()) == files
    capsys.readouterr()
    exec(ASK, {})
    name, size, counts = re.match(r"(\S+) (\d+ x \d+) (.*)\n", capsys.readouterr().out).groups()
    assert (name, size) == ("china.jpg", "93 x 61")
    label_map = np.asarray(Image.open(io.BytesIO((workplace / "answers" / "china.png").read_bytes())))
    classes, pixels = np.unique(label_map, return_counts=True)
    assert ast.literal_eval(counts) == dict(zip(classes.tolist(), pixels.tolist(), strict=True))

    signatures = tf.saved_model.load("served_scenes").signatures
    rows = re.findall(r"^\| (\S+) \| (?:input|output) `(\w+)` \| (\w+) \((.*?)\)", PAGE, re.MULTILINE)
    for signature in ("serving_default", "probabilities"):
        described = signatures[signature].structured_input_signature[1] | signatures[signature].structured_outputs
        assert {name: (spec.dtype.name, len(spec.shape)) for name, spec in described.items()} == {
            name: (dtype, len(list(filter(None, shape.split(",")))))
            for whose, name, dtype, shape in rows
            if whose in ("both", f"`{signature}`")
        }
    assert f"after the {MOST_LINES - 1} largest" in PAGE


def test_the_lines_for_the_library_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(LIBRARY, {"np": np})
    assert capsys.readouterr().out.splitlines() == ["(97, 130) (97, 130, 3)", "1.0", "(97, 130)"]
    assert tf.saved_model.contains_saved_model("served_by_hand")
