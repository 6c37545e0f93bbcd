"""What tests of several formats share."""

import pytest

from tfvt.export import conversion, converter


def convert_here(folder, module):
    """In place of a process of its own, which would import TensorFlow for each file."""
    if converter.main(folder):
        kind, _, text = (folder / conversion.ERROR).read_text(encoding="utf-8").partition("\n")
        raise (ValueError if kind == "ValueError" else RuntimeError)(text)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(conversion, "_run", convert_here)
