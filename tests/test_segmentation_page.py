"""docs/segmentation.md runs as printed, and its tables name what is there."""

import inspect
import re
from pathlib import Path

import tfvt
from tfvt.registry import get_variant, option_names

PAGE = (Path(__file__).parent.parent / "docs" / "segmentation.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)), {})
    shape, shapes, loaded, fresh, neck = capsys.readouterr().out.splitlines()
    assert shape == "(1, 97, 130, 20)"
    assert shapes == "(None, 224, 224, 20) (None, 224, 224, 20)"
    assert re.match(r"\d\d+ loaded; resampled: \('stage1_positions/patch_positions', ", loaded)
    assert fresh == "fresh: ['decoder', 'head', 'neck']"
    assert neck == "{'P3': (None, 32, 32, 64), 'P4': (None, 16, 16, 64)}"


def test_the_page_names_every_model_and_option():
    names = set()
    for pattern in re.findall(r"^\| `(\S+)` \|", PAGE, flags=re.MULTILINE):
        parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
        spelt = [""]
        for part in parts:
            spelt = [start + end for start in spelt for end in part]
        names |= {name for name in spelt if "_" in name and ("fpn" in name or "upernet" in name)}
    models = {name for name in tfvt.list_models() if get_variant(name).task == "segmentation"}
    assert names == models
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [\w-]+ \|", PAGE, flags=re.MULTILINE)
    options = {name for row in rows for name in re.findall(r"\w+", row)}
    known = {option for name in models for option in option_names(name)}
    assert len(options) > 15
    assert options <= known
    assert inspect.signature(get_variant("fpn_resnet50").builder).parameters["head_channels"].default == 128
