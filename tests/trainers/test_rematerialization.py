"""`rematerialize: true` trains the same numbers with less memory, on both engines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from test_resume import newest
from test_seams import state_of, stop_in_step

from tfvt.errors import UsageError
from tfvt.trainers.cli import main
from tfvt.trainers.engines.tensorflow import TensorFlowDevices, TensorFlowEngine
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.classification import Classification

SCRIPT = Path(__file__).with_name("rematerialized.py")
DROP = {"dropout_rate": 0.2, "drop_path_rate": 0.3}
SYNCHRONIZED = "--model.options.synchronized_batch_norm=true"
ACCUMULATED = "--accumulation_steps=2"


def flags_of(name, size, options, *more):
    sizes = [f"--data.{part}.image_size=[{size},{size}]" for part in ("train", "evaluation")]
    options = f"--model.options={json.dumps(DROP | options)}"
    return [f"--model.name={name}", options, *sizes, "--data.batch_size=8", "--optimizer.learning_rate=1e-3", *more]


def blocks(*widths):
    return {
        "blocks": [{"layers": 2, "hidden_dim": w, "mlp_dim": w, "stride": 1 + bool(i)} for i, w in enumerate(widths)]
    }


SMALL = {"width": 8, "depths": [1, 1, 1], "stem_pool": False}
SAN = {"width": 32, "depths": [1, 1]}
PVT = {"depths": [1, 1, 1, 1]}
SWIN = {"depths": [2, 1], "width": 32, "head_dim": 16}
VT = {"width": 16, "depths": [1, 1], "output_channels": 32, "token_dim": 32}
CASES = {
    "vit": flags_of("vit_tiny16", 32, blocks(64), ACCUMULATED),
    "vit, loss scaled": flags_of("vit_tiny16", 32, blocks(64), "--precision=mixed_float16"),
    "vit, compiled": flags_of("vit_tiny16", 32, blocks(64), "--jit_compile=true"),
    "funnel": flags_of("vit_tiny16", 64, blocks(64, 128), "--ema_decay=0.9"),
    "resnet": flags_of("resnet18", 32, SMALL, "--model.frozen=[stem.*,stage1.*]", ACCUMULATED),
    "resnet, synchronized": flags_of("resnet18", 32, SMALL, SYNCHRONIZED),
    "resnet, bfloat16": flags_of("resnet18", 32, SMALL, "--precision=mixed_bfloat16"),
    "vt_resnet": flags_of("vt_resnet18", 64, VT),
    "acmix_resnet": flags_of("acmix_resnet26", 64, {"width": 8, "depths": [1, 2], "num_heads": 2}),
    "san": flags_of("san10", 32, SAN),
    "acmix_san": flags_of("acmix_san10", 32, SAN),
    "pvt": flags_of("pvt_tiny", 32, PVT),
    "acmix_pvt": flags_of("acmix_pvt_tiny", 32, PVT),
    "swin": flags_of("swin_tiny", 32, SWIN),
    "acmix_swin": flags_of("acmix_swin_tiny", 32, SWIN),
}
MIRRORED = "--distribution.strategy=mirrored"
FORMS = {  # of a run: engine, devices, flags, cases; what else there is takes minutes
    "tensorflow": ("tensorflow", 1, [], ["vit, loss scaled", "resnet"]),
    "two TensorFlow devices": (
        "tensorflow",
        2,
        [MIRRORED, "--distribution.devices=[CPU:0,CPU:1]"],
        ["vit", "resnet, synchronized"],
    ),
    "two JAX devices": ("jax", 2, [MIRRORED], ["vit", "resnet, bfloat16"]),
}
# How far apart the numbers may be, as a share of the way that training has moved them. TensorFlow fuses operations
# whose results nothing else needs, which rounds otherwise; weights near 1 that moved by 1e-4 are rounded themselves.
LARGEST = {
    "tensorflow": {"sums/loss": 5e-6, "moving": 5e-5, "optimizer": 5e-4, "model": 5e-3},
    "jax": {"sums/loss": 1e-6, "moving": 1e-5, "optimizer": 5e-5, "model": 1e-3},
}


def run(backend, devices, *arguments):
    env = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend == "jax":
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    elif devices > 1:
        env["VIRTUAL_CPUS"] = str(devices)
    command = [sys.executable, str(SCRIPT), *arguments]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2400)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(form, names, records):
    backend, devices, flags, _ = FORMS[form]
    cases = {name: [*CASES[name], *flags, f"--data.records={records}"] for name in names}
    reports = {
        name: report for line in run(backend, devices, "compare", json.dumps(cases)) for name, report in line.items()
    }
    assert list(reports) == names
    for name, report in reports.items():
        assert report.pop("integers"), name  # random generators, counters
        for kind, (moved, apart) in report.items():
            assert apart <= LARGEST[backend][kind], (name, kind, apart)
            assert moved > 0 or kind == "moving", (name, kind)
        assert "resnet" not in name or report["moving"][0] > 0.01


@pytest.mark.parametrize(
    "form",
    ["tensorflow", pytest.param("two TensorFlow devices", marks=pytest.mark.distributed), "two JAX devices"],
)
def test_numbers_are_those_of_training_without_it(form, records):
    check(form, FORMS[form][-1], records)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tensorflow", "two JAX devices"])
def test_numbers_of_all_families_are_those_of_training_without_it(form, records):
    skipped = ["vit, loss scaled", "resnet, synchronized"] if "JAX" in form else []  # XLA has no such product on CPUs
    check(form, [name for name in CASES if name not in skipped], records)


@pytest.mark.slow
def test_a_taught_model_learns_the_same(records, tmp_path):
    teacher = keras.Sequential([keras.Input((40, 40, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3)])
    teacher.add(keras.layers.GlobalAveragePooling2D())
    teacher.add(keras.layers.Dense(6, kernel_initializer=keras.initializers.RandomNormal(stddev=9.0, seed=1)))
    teacher.save(tmp_path / "teacher.keras")
    CASES["taught"] = flags_of("vit_tiny16", 32, blocks(64), f"--distillation.teacher={tmp_path / 'teacher.keras'}")
    check("tensorflow", ["taught"], records)


DEEP = {"blocks": [{"layers": 6, "hidden_dim": 128, "mlp_dim": 256}]}


@pytest.mark.parametrize(("backend", "least"), [pytest.param("tensorflow", 1.25, marks=pytest.mark.slow), ("jax", 2.5)])
def test_a_step_takes_less_memory(backend, least, records):
    flags = [*flags_of("vit_tiny16", 128, DEEP), "--data.batch_size=48", f"--data.records={records}"]
    plain, rematerialized = (run(backend, 1, "memory", *flags, *more)[0] for more in ([], ["--rematerialize=true"]))
    assert rematerialized * least < plain


def test_a_run_of_six_steps_continues_bit_equal(config, tmp_path, monkeypatch):
    flags = ["--config", str(config), "--rematerialize=true", "--epochs=1", "--schedule.warmup_epochs=0"]
    assert main(["train", *flags, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        stop_in_step(patch, 3)
        assert main(["train", *flags, "--output", str(tmp_path / "stopped")]) == 130
    assert main(["train", "--resume", "--output", str(tmp_path / "stopped")]) == 0
    assert newest(tmp_path / "whole").step == 6
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "whole")


def test_a_model_without_blocks_is_named(config):
    class Plain(Classification):
        def model(self):
            x = inputs = keras.Input((32, 32, 3))
            return keras.Model(inputs, keras.layers.Dense(6)(keras.layers.Flatten()(x)), name="plain")

    recipe = parse_recipe(["--config", str(config), "--rematerialize=true"])
    with pytest.raises(
        UsageError, match=r"^rematerialize: plain has no blocks: no layer's name begins like encoder_lay"
    ):
        TensorFlowEngine(recipe, Plain(recipe), 6, TensorFlowDevices(recipe.distribution))
