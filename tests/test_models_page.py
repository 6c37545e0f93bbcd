"""docs/models.md and results/models.csv are what `make models` writes."""

import csv
from pathlib import Path

import pytest

import tfvt
from benchmarks import models
from benchmarks.counting import paper_rows
from tfvt.checkpoints.loading import SOURCES

ROOT = Path(__file__).parent.parent
ROWS = {row["model"]: row for row in models.read(ROOT / "results" / "models.csv")}
OLD = "run `make models` and read the difference"


def test_every_name_has_a_row():
    assert list(ROWS) == tfvt.list_models(), OLD
    assert all(float(row["param_count"]) > 0 and float(row["gmacs"]) > 0 for row in ROWS.values())


def test_the_page_has_the_rows_of_the_file():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert models.page(ROWS.values()) == page, OLD
    assert page.count("\n| `") == len(ROWS)


# Counts that others print: the Visual Transformers' paper (its parameters leave out norms, so only the MACs), timm's
# results (parameters) and ACmix's Figure 4, Tables 2 and 3.
@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [
        ("resnet18", "11.69", "1.81"),
        ("resnet50", "25.56", "4.09"),
        ("resnet101", "44.55", "7.80"),
        ("vt_resnet18", None, "1.58"),
        ("vit_base16", "86.57", None),
        ("vit_large16", "304.33", None),
        ("swin_tiny", "28.29", "4.49"),
    ],
)
def test_counts_are_the_published_ones(name, params, gmacs):
    assert params in (None, ROWS[name]["param_count"])
    assert gmacs in (None, ROWS[name]["gmacs"])


def test_a_row_is_counted_on_the_model():
    for name in ("vt_resnet18", "vit_tiny16"):
        profile = tfvt.profile(name)
        row = models.model_row(name, models.paper_figures(), {name: "1.50"})
        assert row == ROWS[name] | {"relative_speed": "1.50"}, OLD
        assert (row["param_count"], row["gmacs"]) == (f"{profile.params / 1e6:.2f}", f"{profile.macs / 1e9:.2f}")


def test_the_columns_that_need_no_count():
    figures = models.paper_figures()
    for name, row in ROWS.items():
        assert row["weights"] == models.weight_sources(name), OLD
        assert set(row["weights"].strip("()").split()) <= set(SOURCES)
        assert (row["paper_metric"], row["paper_value"], row["paper_source"]) == figures.get(name, ("", "", "")), OLD
    assert ROWS["vt_resnet50"]["weights"] == "(torchvision timm huggingface)"
    assert ROWS["upernet_acmix_swin_tiny"]["weights"] == "(swin)"
    assert ROWS["acmix_pvt_tiny"]["weights"] == ""


def test_the_papers_figures_are_copied():
    assert ROWS["vt_resnet18"]["paper_value"] == "72.0"
    assert ROWS["funnel_vit_base16_6_6"]["paper_source"] == "Funnel-ViT, Table 2, mean"
    printed = {row[column] for paper in models.PAPERS for row in paper_rows(paper) for column in models.METRICS}
    assert {row["paper_value"] for row in ROWS.values()} - {""} <= printed
    # Every figure has found its model: nothing is left over but fine-tuning and other settings of the same models.
    assert set(models.paper_figures()) <= set(ROWS)


def test_speeds_stay_when_they_are_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tfvt, "list_models", lambda: ["resnet18"])
    monkeypatch.setattr(models.keras, "StatelessScope", lambda: pytest.MonkeyPatch.context())  # would never be left
    models.write(tmp_path / "a.csv", [ROWS["resnet18"] | {"relative_speed": "2.25"}])
    models.main(tmp_path / "a.md", tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert [row["relative_speed"] for row in csv.DictReader(file)] == ["2.25"]
    assert "| 2.25 |" in (tmp_path / "a.md").read_text(encoding="utf-8")
