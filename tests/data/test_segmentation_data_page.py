"""docs/segmentation_data.md: its keys and defaults are those of the code, its code and commands run."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from record_files import encode, picture

from tfvt.data import SegmentationEvaluation, SegmentationTraining
from tfvt.tfrecords_tools.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "segmentation_data.md").read_text(encoding="utf-8")


def keys(section):
    """Key -> default, of `key` (default) in the section's table."""
    table = re.search(rf"^## {section}\n.*?(^\|.*?)\n\n", PAGE, re.DOTALL | re.MULTILINE)[1]
    found = {key: yaml.safe_load(text) for key, text in re.findall(r"`(\w+)` \(([^()]*)\)", table)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


@pytest.mark.parametrize(
    ("section", "settings"),
    [("Training samples", SegmentationTraining), ("Evaluation samples", SegmentationEvaluation)],
)
def test_keys_and_defaults_are_those_of_the_code(section, settings):
    assert keys(section) == {field.name: field.default for field in fields(settings)}


def test_commands_and_code_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split in ("training", "validation"):
        for folder in ("images", "annotations"):
            Path("ADE20K", folder, split).mkdir(parents=True)
        for index in range(3):
            mask = np.random.default_rng(index).integers(0, 151, (50 + index, 70), np.uint8)
            Path("ADE20K/images", split, f"{index}.jpg").write_bytes(encode(picture(index, 50 + index, 70), "JPEG"))
            Path("ADE20K/annotations", split, f"{index}.png").write_bytes(encode(mask))
    commands = re.search(r"\n```\n(tfvt .*?)```", PAGE, re.DOTALL)[1]
    for command in commands.splitlines():
        assert main(shlex.split(command)[2:]) == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 100
    capsys.readouterr()
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), {})
    with Image.open("segmentation_augmentation.jpg") as drawn:
        assert drawn.size == (6 * 180, 2 * 150)
    batch, *images = capsys.readouterr().out.splitlines()
    assert f"This prints `{batch}`" in PAGE
    assert sorted(line.partition(" ")[2] for line in images) == [
        f"uint8 (1, {height}, 70, 3) (1, {height}, 70)" for height in (50, 51, 52)
    ]
