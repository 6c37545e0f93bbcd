"""docs/fidelity.md is what the command writes."""

import re
from pathlib import Path

import pytest

from benchmarks import fidelity, fidelity_detection

PAGE = (Path(__file__).parent.parent / "docs" / "fidelity.md").read_text(encoding="utf-8")
OLD = "docs/fidelity.md is old: run `make fidelity` and read the difference"


def test_the_tables_of_visual_transformers_are_up_to_date():
    assert fidelity.visual_transformers() in PAGE, OLD


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert fidelity.page() == PAGE, OLD


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


def test_the_equations_of_pvt_are_those_of_our_model_where_both_round_up():
    size = (70, 101)
    macs, maps = fidelity_detection.pvt_macs((2, 2, 2, 2), size, lambda side, stride: -(-side // stride))
    whole = macs + fidelity_detection.retinanet_macs(maps[1:])
    assert fidelity_detection.macs_of("retinanet_pvt_tiny", size) == whole


def test_necks_and_heads_are_those_of_the_published_set_ups():
    """At 800x1333, as plain arithmetic over mmdetection's layers gives them."""
    maps = [(200, 334, 96), (100, 167, 192), (50, 84, 384), (25, 42, 768)]
    assert fidelity_detection.fpn_macs(maps) == 55_428_710_400
    assert fidelity_detection.rpn_macs(maps) == 52_849_750_272
    assert fidelity_detection.box_head_macs(1) == 14_304_256_000
    assert fidelity_detection.box_head_macs(3) == 128_861_184_000
    assert fidelity_detection.mask_head_macs() == 52_985_856_000


@pytest.mark.slow
def test_the_rules_give_the_papers_figures():
    rows = [row.strip("| ").split(" | ") for row in fidelity.detection_rows()[2:]]
    assert len(rows) == 13
    for _, system, _, _, paper, ours, *_ in rows:
        assert abs(float(ours) - int(paper)) < 1, system
