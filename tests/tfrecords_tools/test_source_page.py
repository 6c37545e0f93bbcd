"""The pages of sources and conversion: the ImageNet steps run as printed on miniature downloads; examples are read."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from image_files import encode, picture
from imagenet_files import SYNSETS, write_tars

from tfvt.data import open_records
from tfvt.tfrecords_tools.sources import FORMATS, open_source
from tfvt.tfrecords_tools.sources.layout import LAYOUTS, read_layout
from tfvt.trainers.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "record_sources.md").read_text(encoding="utf-8")
CONVERSION = (DOCS / "records.md").read_text(encoding="utf-8")


def section(title):
    return re.search(rf"^(##+) {title}\n(.*?)(?=^\1 |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)[2]


def test_imagenet_from_the_downloads_to_verified_shards(tmp_path, monkeypatch, capsys):
    write_tars(tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```bash\n(.*?)```", section("ImageNet"), flags=re.DOTALL)
    commands = [shlex.split(line) for line in code.splitlines()]
    assert [name for _, _, name, *_ in commands] == ["convert", "verify", "inspect"]
    for _, *arguments in commands:
        assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "train: 12 images in 12 shards" in printed
    assert "0 problems, 0 warnings" in printed
    records = [open_records(tmp_path / "imagenet-records", split) for split in ("train", "validation", "test")]
    assert [one.num_examples for one in records] == [12, 6, 2]
    assert records[0].class_names == tuple(SYNSETS)


def test_files_that_the_page_names_are_those_of_the_miniature(tmp_path):
    names = set(re.findall(r"^\| `(ILSVRC\S+)` \|", section("ImageNet"), flags=re.MULTILINE))
    assert names == {path.name for path in write_tars(tmp_path).iterdir()}


def test_table(tmp_path):
    (text,) = re.findall(r"```\n(.*?)```", section("Tables"), flags=re.DOTALL)
    (tmp_path / "photos").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(encode(picture(number)))
    (tmp_path / "table.csv").write_text(text)
    source = open_source(tmp_path / "table.csv")
    assert {split: [image.label for image in images] for split, images in source.splits.items()} == {
        "train": [0, 1],
        "validation": [1],
    }


def test_layout(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", section("Images with masks"), flags=re.DOTALL)
    (tmp_path / "layout.yaml").write_text(text)
    layout = read_layout(tmp_path / "layout.yaml")
    assert layout.class_names == ("wall", "building", "road")
    assert layout.mask_ids == {0: 255, 1: 0, 2: 1, 7: 2, 12: 2}


def test_layouts_that_come_with_tfvt_are_those_of_the_page():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (\d+)\D", section("Images with masks"), flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == {path.stem for path in LAYOUTS.glob("*.yaml")}
    for name, folders, classes in rows:
        layout = read_layout(name)
        assert len(layout.class_names) == int(classes)
        assert all(f"`{folder}`" in folders for folder in layout.splits["train"])
        void = yaml.safe_load((LAYOUTS / f"{name}.yaml").read_text(encoding="utf-8")).get("void_label")
        assert re.search(rf"`{name}` .*\| {'' if void is None else void} ?\|$", PAGE, flags=re.MULTILINE)


def test_options_are_those_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["records", "convert", "--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, flags=re.MULTILINE))
    elsewhere = {"--ground-truth", "--data-dir", "--layout"}
    assert set(re.findall(r"^\| `(--[a-z-]+)", CONVERSION, flags=re.MULTILINE)) == options - elsewhere
    assert all(option in PAGE for option in elsewhere)


def test_formats_are_those_of_the_page_and_of_the_command(capsys):
    row = re.search(r"^\| `--format F` \| (.*?), where", CONVERSION, flags=re.MULTILINE)[1]
    assert tuple(re.findall(r"`(\w+)`", row)) == FORMATS
    with pytest.raises(SystemExit):
        main(["records", "convert", "--help"])
    assert "{auto," + ",".join(FORMATS) + "}" in "".join(capsys.readouterr().out.split())
