"""docs/fidelity.md is what the command writes."""

import re
from pathlib import Path

from benchmarks import fidelity


def test_the_page_is_up_to_date():
    written = (Path(__file__).parent.parent / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert fidelity.page() == written, "docs/fidelity.md is old: run `make fidelity` and read the difference"


def test_the_formulas_of_acmix_round_to_the_papers_figures():
    """All but convolution's 0.1 G, which its formula cannot give; so do the shares of 73 % and 27 %."""
    rows = {row.split(" | ")[0].strip("| "): re.findall(r"\d+\.?\d*", row) for row in fidelity.acmix_table_1_rows()[2:]}
    for module, figures in rows.items():
        paper, ours = [float(n) for n in figures[:4]], [float(n) for n in figures[4:]]
        rounded = [round(n, 1) for n in ours]
        assert rounded == ([1.9, 0.0, 11.3, 0.0] if module == "convolution" else paper)
    stages = [float(n) for n in rows["ACmix"][4:6]]
    assert [round(100 * stage / sum(stages)) for stage in stages] == [73, 27]


def test_rows_of_the_advanced_recipe_are_counted_with_its_options():
    options = {depth: fidelity.options_of(f"vt_resnet{depth}", "advanced recipe") for depth in (18, 34, 50, 101)}
    assert options.pop(34) == {"renewed_tokens": 8, "num_relations": 2}
    assert list(options.values()) == [{"renewed_tokens": 8}] * 3
    assert fidelity.options_of("resnet18", "advanced recipe") == {}
