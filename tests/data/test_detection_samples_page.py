"""docs/detection_samples.md: its keys and defaults are those of the code, its code and commands run."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import yaml
from PIL import Image
from record_files import encode, picture

from tfvt.data import DetectionTraining
from tfvt.tfrecords_tools.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "detection_samples.md").read_text(encoding="utf-8")
BOXES = """path,xmin,ymin,xmax,ymax,label,split
0.png,12,3,30,28,cat,train
0.png,2,4.5,30,9,dog,train
1.png,,,,,,train
2.png,0,0,64,48,cat,train
"""


def test_keys_and_defaults_are_those_of_the_code():
    table = re.search(r"^## Training samples\n.*?(^\|.*?)\n\n", PAGE, re.DOTALL | re.MULTILINE)[1]
    found = {key: yaml.safe_load(text) for key, text in re.findall(r"`(\w+)` \(([^()]*)\)", table)}
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    assert found == {field.name: field.default for field in fields(DetectionTraining)}


def test_commands_and_code_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("boxes.csv").write_text(BOXES)
    for index in range(3):
        Path(f"{index}.png").write_bytes(encode(picture(index, 48, 64)))
    (command,) = re.search(r"\n```\n(tfvt .*?)```", PAGE, re.DOTALL)[1].splitlines()
    assert main(shlex.split(command)[2:]) == 0
    capsys.readouterr()
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), {})
    with Image.open("detection_augmentation.jpg") as drawn:
        assert drawn.size == (3 * 240, 2 * 160)
    lines = capsys.readouterr().out.splitlines()
    described = [(name, dtype) for name, dtype in re.findall(r"^\| `(\w+)` \| (\w+) \(", PAGE, re.MULTILINE)]
    assert sorted(tuple(line.split()[:2]) for line in lines[:-3]) == sorted(described)
    assert "boxes float32 (2, 100, 4)" in lines
    assert sorted(lines[-3:]) == [
        "0.png (1, 48, 64, 3) [[3.0, 12.0, 28.0, 30.0], [4.0, 2.0, 9.0, 30.0]]",
        "1.png (1, 48, 64, 3) []",
        "2.png (1, 48, 64, 3) [[0.0, 0.0, 48.0, 64.0]]",
    ]
