"""docs/detection.md runs as printed, and its tables name what is there."""

import gc
import re
from pathlib import Path

import tfvt
from tfvt.registry import get_variant, option_names

PAGE = (Path(__file__).parent.parent / "docs" / "detection.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(block, names)
        if "model" not in re.findall(r"\w+", block):  # nor do later ones use it: memory for theirs
            names = {name: value for name, value in names.items() if name in ("np", "tfvt")}
            gc.collect()
    outputs, boxes, swin, loaded = capsys.readouterr().out.splitlines()
    # Maps of 12x17, 6x9, 3x5, 2x3 and 1x2 pixels with 9 anchors each.
    anchors = 9 * (12 * 17 + 6 * 9 + 3 * 5 + 2 * 3 + 1 * 2)
    expected = {"class_logits": (1, anchors, 20), "box_deltas": (1, anchors, 4), "anchors": (1, anchors, 4)}
    assert {name: tuple(map(int, shape)) for name, shape in shapes_in(outputs)} == expected
    assert dict(shapes_in(boxes)) == {"boxes": ("1", "10", "4"), "scores": ("1", "10"), "labels": ("1", "10")}
    assert int(swin.split()[-1]) > 27_000_000
    assert re.fullmatch(r"\d+ loaded; fresh: \['head', 'neck'\]", loaded.replace("'decoder', ", ""))


def shapes_in(text):
    return [
        (name, tuple(re.findall(r"\d+", shape)))
        for name, shape in re.findall(r"'(\w+)': .*?\[?\(?([\d, ]+)[\])]", text)
    ]


def test_the_page_names_every_model_and_option():
    names = set()
    for start, ends in re.findall(r"^\| `(\w+)\{([\w,]+)\}` \|", PAGE, flags=re.MULTILINE):
        names |= {f"{start}{end}" for end in ends.split(",")}
    models = {name for name in tfvt.list_models() if get_variant(name).task == "detection"}
    assert names == models
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]* \| [^|]* \|$", PAGE, flags=re.MULTILINE)
    options = {name for row in rows for name in re.findall(r"\w+", row)}
    known = {option for name in models for option in option_names(name)}
    assert len(options) == 26
    assert options <= known
