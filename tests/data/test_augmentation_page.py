"""docs/augmentation.md: its keys and defaults are those of the code, its code runs."""

import re
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest

from tfvt.data import Mixing, TrainPreprocessing

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "augmentation.md").read_text(encoding="utf-8")
WORDS = {"bilinear": "bilinear", "true": True, "null": None}


def keys(section):
    """Key -> default, of `key` (default) or `key: value` (default) in the section's table."""
    table = re.search(rf"^## {section}\n.*?(^\|.*?)\n\n", PAGE, re.DOTALL | re.MULTILINE)[1]
    return {key: default(text) for key, text in re.findall(r"`(\w+)(?:: \w+)?` \(([^()]*)\)", table)}


def default(text):
    if text in WORDS:
        return WORDS[text]
    numbers = tuple(float(Fraction(part)) for part in text.strip("[]").split(","))
    return numbers if text.startswith("[") else numbers[0]


@pytest.mark.parametrize(("section", "settings"), [("One image", TrainPreprocessing), ("One batch", Mixing)])
def test_keys_and_defaults_are_those_of_the_code(section, settings):
    assert keys(section) == {field.name: field.default for field in fields(settings)}


def test_code_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    mixed, picture = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(mixed, {})
    assert "0.02 0.02 0.02 0.92 0.02" in capsys.readouterr().out.replace("0.91999996", "0.92")
    exec(picture, {})
    assert (tmp_path / "augmentation.jpg").stat().st_size > 10_000
