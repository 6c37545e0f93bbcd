"""benchmarks/accelerator.py on a CPU: the path that an accelerator would take, without TensorFlow."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from jax._src import xla_bridge
from benchmarks import accelerator
assert accelerator.main(sys.argv[1:]) == 0
assert not xla_bridge.backends_are_initialized()  # it would hold the device that its processes measure
try:
    accelerator.measure_apart(dict(model="vit_tiny16", mode="training", batch_size=2, image_size=40, steps=1, blocks=1))
except RuntimeError as error:
    print("failed:", error)
for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "TPU v4", "TPU v5 lite", "TPU v5p", "TPU v6 lite",
             "NVIDIA H100 PCIe", "TPU v4 lite", "cpu"):
    print(kind, accelerator.peak_of(kind), sep=": ")
full = accelerator.Measurement("resnet18", "training", 100, 224, "TPU v4", 10, 9.0, (1.0, 4.0, 2.0), 11_000_000_000_000,
                               3 * 2**30, 275e12)
print(full.as_row())
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the script printed, and the figures that it wrote."""
    folder = tmp_path_factory.mktemp("accelerator")
    (folder / "tensorflow.py").write_text("raise ImportError('TensorFlow is not installed')")
    flags = ["--models", "vit_tiny16", "--batch_sizes", "2", "--image_size", "32", "--steps", "2", "--blocks", "3"]
    flags += ["--modes", "training", "rematerialized", "inference"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "KERAS_BACKEND": "tensorflow",  # the benchmark is for JAX, whatever the shell says
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *flags, "--json", str(folder / "figures.json")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), json.loads((folder / "figures.json").read_text())


def vit_macs(width=192, mlp=768, layers=12, patches=4, classes=1000):
    """Multiply-adds of a ViT with patches of 16x16, by hand."""
    tokens = patches + 1
    layer = tokens * width * 4 * width + 2 * tokens**2 * width + 2 * tokens * width * mlp
    return patches * 16 * 16 * 3 * width + layers * layer + width * classes


def test_the_figures_follow_from_the_seconds_that_were_measured(ran):
    training, rematerialized, inference = ran[1]["measurements"]
    modes = [one["mode"] for one in (training, rematerialized, inference)]
    assert modes == ["training", "rematerialized", "inference"]
    assert training["flop_per_step"] == rematerialized["flop_per_step"] == 2 * vit_macs() * 3 * 2
    assert inference["flop_per_step"] == 2 * vit_macs() * 2
    for one in (training, rematerialized, inference):
        assert (one["model"], one["batch_size"], one["steps"], one["device"]) == ("vit_tiny16", 2, 2, "cpu")
        assert len(one["block_seconds"]) == 3
        assert min(one["block_seconds"]) > 0
        assert one["step_seconds"] == pytest.approx(statistics.median(one["block_seconds"]) / 2)
        assert one["images_per_second"] == pytest.approx(2 / one["step_seconds"])
        assert one["flop_per_second"] == pytest.approx(one["flop_per_step"] / one["step_seconds"])
        assert one["share_of_peak"] is None  # of a CPU


def test_the_table_has_a_row_for_each_measurement(ran):
    header, rule, *rows = ran[0][:5]
    assert header.count("|") == rule.count("|") == 9
    for row, one in zip(rows, ran[1]["measurements"], strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:3] == ["`vit_tiny16`", one["mode"], "2"]
        assert cells[3:5] == [f"{1000 * one['step_seconds']:.2f}", f"{one['images_per_second']:.1f}"]
        assert cells[-1] == ""
    assert "Device cpu; 32x32;" in "\n".join(ran[0])


def test_a_known_chip_has_a_share_of_its_peak(ran):
    """100 images in 0.2 s, 55 TFLOP/s of 275."""
    assert "| `resnet18` | training | 100 | 200.00 | 500.0 | 3.00 | 55.00 | 20.0 % |" in ran[0]
    known = dict(line.split(": ") for line in ran[0] if line.startswith(("NVIDIA", "TPU", "cpu")))
    tera = {kind: float(peak) / 1e12 for kind, peak in known.items() if peak != "None"}
    assert tera == {
        "NVIDIA H100 80GB HBM3": 989, "NVIDIA A100-SXM4-40GB": 312, "TPU v4": 275, "TPU v5 lite": 197, "TPU v5p": 459,
        "TPU v6 lite": 918,
    }  # fmt: skip
    assert len(known) == 9


def test_a_process_that_fails_is_one_line(ran):
    (line,) = [line for line in ran[0] if line.startswith("failed:")]
    assert "input_shape=(40, 40, 3)" in line
