"""What `make bench` writes, what `make bench-compare` prints, and the pictures of speeds, from made-up numbers."""

import csv
import subprocess
import sys

import pytest
from PIL import Image

from benchmarks import __main__ as bench
from benchmarks import compare, models, plot, timing


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The CSV file that benchmarks of this process append to."""
    path = tmp_path / "bench.csv"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    bench.main(path, "none")  # its header
    monkeypatch.setenv(timing.BENCH_FILE, str(path))
    monkeypatch.setenv(timing.BENCH_NAME, "made_up")
    return path


def test_a_ratio_is_a_row(file):
    seconds = {"a": [2.0, 4.0, 6.0, 8.0, 10.0], "b": [1.0, 1.0, 1.0, 1.0, 1.0]}
    assert timing.median_ratio(seconds, "a", "b", "table 1") == 6.0
    assert timing.median_ratio(seconds, "b", "b", "table 1") == 1.0  # no figure
    timing.record("table 2", "memory", [12.5], "MiB")
    with open(file, newline="", encoding="utf-8") as opened:
        first, second = csv.DictReader(opened)
    assert tuple(first) == timing.COLUMNS
    head = ("benchmark", "figure", "quantity", "value", "spread", "rounds", "unit")
    assert [first[k] for k in head] == ["made_up", "table 1", "time of a / b", "6", "4", "5", "ratio"]
    assert [second[k] for k in head] == ["made_up", "table 2", "memory", "12.5", "0", "1", "MiB"]
    assert "cores" in first["machine"]
    assert f"Python {sys.version.split()[0]}" in first["versions"]
    assert first["date"].count("-") == 2


def test_benchmarks_by_hand_write_no_file(tmp_path, monkeypatch):
    monkeypatch.delenv(timing.BENCH_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    timing.median_ratio({"a": [1.0], "b": [1.0]}, "a", "b", "table")
    assert list(tmp_path.iterdir()) == []


def test_make_bench_runs_each_benchmark_with_the_file(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, *, check, env: ran.append((command[-1], env)))
    bench.main(tmp_path / "new" / "bench.csv")
    names = [module.removeprefix("benchmarks.") for module, _ in ran]
    assert {"resnet", "acmix", "vit", "input"} <= set(names)
    assert not {"timing", "models", "plot", "compare", "experiments"} & set(names)
    assert [env[timing.BENCH_NAME] for _, env in ran] == names
    assert {env[timing.BENCH_FILE] for _, env in ran} == {str(tmp_path / "new" / "bench.csv")}


def row(value, spread=0.0, rounds=1):
    return {"value": str(value), "spread": str(spread), "rounds": str(rounds), "machine": "m", "versions": "v"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (row(1.0), row(1.02), False),  # below the floor
        (row(1.0), row(1.04), True),
        (row(1.0, 0.001, 9), row(1.02, 0.001, 9), False),  # far beyond its errors, below the floor
        (row(1.0, 0.3, 9), row(1.2, 0.3, 9), False),  # 3 * sqrt(2) * 0.9288 * 0.3 / 3 = 0.394
        (row(1.0, 0.3, 9), row(1.39, 0.3, 9), False),
        (row(1.0, 0.3, 9), row(1.40, 0.3, 9), True),
        (row(1.0, 0.3, 900), row(1.2, 0.3, 900), True),  # a tenth of the errors
        (row(1.0), row(0.5), True),
        (row(0.0), row(0.1), True),
    ],
)
def test_the_rule_of_noise(old, new, expected):
    assert compare.differ(old, new) is expected


def test_the_report_names_changes_and_what_only_one_has():
    key = ("vit", "training", "time of a / b", "ratio")
    old = {key: row(1.0), ("vit", "training", "memory", "MiB"): row(100), ("gone", "", "x", "s"): row(1)}
    new = {
        key: row(1.5),
        ("vit", "training", "memory", "MiB"): row(60),
        ("new", "", "y", "s"): row(1) | {"machine": "n"},
    }
    lines = compare.report(old, new)
    assert " ".join(lines[0].split()) == "+50.0 % 1.0 -> 1.5 ratio vit: training: time of a / b"
    assert lines[1].split()[:5] == ["-40.0", "%", "100", "->", "60"]
    assert lines[2:] == [
        "2 of 2 figures changed beyond noise", "only in OLD: gone: : x", "only in NEW: new: : y", "machine: m -> m; n",
    ]  # fmt: skip
    assert compare.report(old, old) == ["0 of 3 figures changed beyond noise"]


def test_the_pictures_hold_the_models_that_were_measured(tmp_path, monkeypatch):
    made_up = [  # name, MACs, speed, paper's top-1
        ("resnet50", "4.1", "1.00", "76.0"), ("vt_resnet50", "3.4", "1.10", "80.6"),
        ("acmix_resnet50", "3.5", "0.5", "77.8"),
        ("vit_base16", "17.6", "0.30", ""), ("swin_tiny", "4.5", "", "81.3"),
    ]  # fmt: skip
    rows = [
        dict.fromkeys(models.COLUMNS, "")
        | {"model": name, "gmacs": macs, "relative_speed": speed, "paper_value": top1}
        | {"paper_metric": "top-1" if top1 else ""}
        for name, macs, speed, top1 in made_up
    ]
    models.write(tmp_path / "models.csv", rows)
    drawn, draw = {}, plot.draw
    monkeypatch.setattr(
        plot, "draw", lambda r, x, y, path, log: drawn.update({path.name: r}) or draw(r, x, y, path, log)
    )
    plot.main(tmp_path / "models.csv", tmp_path)
    names = {name: [row["model"] for row in rows] for name, rows in drawn.items()}
    assert names["models_speed.png"] == ["resnet50", "vt_resnet50", "acmix_resnet50", "vit_base16"]
    assert names["models_accuracy.png"] == ["resnet50", "vt_resnet50", "acmix_resnet50"]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 900
    models.write(tmp_path / "models.csv", rows[-1:])
    with pytest.raises(SystemExit, match="no speeds"):
        plot.main(tmp_path / "models.csv", tmp_path)
