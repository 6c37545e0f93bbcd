"""docs/fidelity.md is what the command writes."""

from pathlib import Path

from benchmarks import fidelity


def test_the_page_is_up_to_date():
    written = (Path(__file__).parent.parent / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert fidelity.page() == written, "docs/fidelity.md is old: run `make fidelity` and read the difference"
