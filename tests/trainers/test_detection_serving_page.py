"""docs/detection_serving.md's commands and lines run as printed."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from box_run import write_box_run
from PIL import Image

from tfvt.data.box_pictures import SHOWN
from tfvt.data.detection import DetectionEvaluation
from tfvt.trainers.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "detection_serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
READ, ASK, LIBRARY, MASKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the page supposes: a run, and photographs."""
    write_box_run(tmp_path / "runs" / "scenes")
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("000000000139", "china")):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
        pixels = Image.fromarray(pixels).resize((93, 61 + seed), Image.Resampling.BICUBIC)
        pixels.save(tmp_path / "photos" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_lines_run_as_printed(workplace, capsys):
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("tfvt", 0)
    files = re.findall(r"`(\S+\.(?:png|json))`", "".join(re.findall(r"^\| `.*", PAGE, re.MULTILINE)))
    assert sorted(path.name for path in (workplace / "answers").iterdir()) == sorted(files)
    results = json.loads((workplace / "answers" / "detections.json").read_text())
    assert all(f"- `{key}`" in PAGE for key in results[0])
    names = {}
    capsys.readouterr()
    exec(READ, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == " ".join(str(results[0][key]) for key in ("image_id", "category_id", "bbox", "score"))
    exec(ASK, names)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("000000000139.jpg 93 x 61 ['")
    assert second.startswith("china.jpg 93 x 62 ['")

    serve = tf.saved_model.load("served_scenes").signatures["serving_default"]
    rows = re.findall(r"^\| (?:input|output) `(\w+)` \| (\w+) \((.*?)\)", PAGE, re.MULTILINE)
    described = serve.structured_input_signature[1] | serve.structured_outputs
    assert {name: (spec.dtype.name, len(spec.shape)) for name, spec in described.items()} == {
        name: (dtype, len(list(filter(None, shape.split(","))))) for name, dtype, shape in rows
    }


def test_the_lines_for_the_library_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(LIBRARY, names)
    exec(MASKS, names)
    shapes, pixels = capsys.readouterr().out.splitlines()
    assert shapes == "{'boxes': (100, 4), 'scores': (100,), 'labels': (100,)}"
    assert pixels.startswith("(97, 130) 1800 ")
    assert tf.saved_model.contains_saved_model("served_by_hand")


def test_keys_and_numbers_are_those_of_the_code():
    keys = dict(re.findall(r"`(\w+)` \(([\d.]+)\)", PAGE))
    assert keys == {part.name: str(part.default) for part in dataclasses.fields(DetectionEvaluation)}
    assert f"a score of {SHOWN}\nor more" in PAGE
