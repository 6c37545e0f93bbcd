"""docs/detection_data.md: its commands run as printed on miniatures; its tables and code are read."""

import re
import shlex
from pathlib import Path

import pytest
from box_files import write_coco, write_voc
from image_files import encode, picture
from PIL import Image

from tfvt.data.records import OBJECT_LISTS, SOURCE_ID
from tfvt.tfrecords_tools.sources import open_source
from tfvt.trainers.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "detection_data.md").read_text(encoding="utf-8")


def blocks(language=""):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [code for of, code in found if of == language]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "coco")
    write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    (table,) = [block for block in blocks() if block.startswith("path,")]
    (tmp_path / "boxes.csv").write_text(table)
    (tmp_path / "photos").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(encode(picture(number, 240, 320)))
    return tmp_path


def test_commands_and_code_run_as_printed(workplace, capsys):
    commands = next(block for block in blocks() if block.startswith("tfvt")).splitlines()
    assert len(commands) == 5
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 400
    printed = capsys.readouterr().out
    assert "0 problems, 0 warnings" in printed
    assert "train: 2 images in 1 shard" in printed, "the table's"
    exec(blocks("python")[0], {})
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["139", "285", "632", "724"]
    assert any(re.match(r"139 \[1 2\] \[0\.41666\d+ +1\. +\]$", line) for line in lines)


def test_layout(workplace):
    (text,) = blocks("yaml")
    (workplace / "layout.yaml").write_text(text)
    root = workplace / "coco"
    for split in ("train", "val"):
        for path in (root / f"{split}2017").iterdir():
            (root / "pictures").mkdir(exist_ok=True)
            path.rename(root / "pictures" / path.name)
        name = "train" if split == "train" else "val"
        (root / "annotations" / f"instances_{split}2017.json").rename(root / "annotations" / f"{name}.json")
    source = open_source(root, layout="layout.yaml")
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 4, "validation": 2}


def test_features_are_those_of_the_schema():
    rows = re.findall(r"^\| (`image/.*?) \| ", PAGE, flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    expected = [name.removeprefix("image/object/bbox/") for name in (*OBJECT_LISTS, SOURCE_ID)]
    assert sorted(name.removeprefix("image/object/bbox/") for name in named) == sorted(expected)


def test_links_lead_to_sections():
    assert len(PAGE.splitlines()) <= 170
    docs = Path(__file__).parents[2] / "docs"
    for page, anchor in re.findall(r"\]\((\w+\.md)(?:#([a-z-]+))?\)", PAGE):
        titles = re.findall(r"^#+ (.*)$", (docs / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}, anchor
