"""One recipe, equal losses: on both engines, on one device and several, in one process and several."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from host_rows import rows_of

SCRIPT = Path(__file__).with_name("equal_numbers.py")
COMMON = [
    "--data.batch_size=16",
    "--data.train.image_size=[32,32]",
    "--data.evaluation.image_size=[32,32]",
    "--epochs=20",
    "--ema_decay=0.9",
]
ADAMW = ["--optimizer.name=adamw", "--optimizer.learning_rate=1e-3", "--optimizer.clip_global_norm=1"]
VIT = ["--model.name=vit_tiny16", "--model.options.dropout_rate=0", *ADAMW]
VIT.append("--model.options.blocks=[{layers: 2, hidden_dim: 64, mlp_dim: 64}]")
# Rates are low: batch norms on small maps amplify rounding a thousandfold within ten steps.
SMALL = ["--model.options.width=16", "--model.options.depths=[1,1,1,1]", "--model.options.stem_pool=false"]
SGD = ["--optimizer.name=sgd", "--optimizer.learning_rate=2e-6", "--optimizer.weight_decay=1e-4"]
RESNET = ["--model.name=resnet18", *SMALL, *SGD]
RMSPROP = ["--optimizer.name=rmsprop", "--optimizer.learning_rate=1e-6"]
VT_RESNET = ["--model.name=vt_resnet18", *SMALL, "--model.options.dropout_rate=0", *RMSPROP]
MIXED = ["--data.mixing.mixup_alpha=0.8", "--data.mixing.cutmix_alpha=1.0", "--accumulation_steps=2"]


def free_addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]


def run(backend, records, weights, flags, steps=20, workers=1, devices=1, common=COMMON):
    """The reports of all processes."""
    env = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend == "jax":
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    elif devices > 1:
        env["VIRTUAL_CPUS"] = str(devices)
    if workers > 1:
        addresses = ",".join(free_addresses(workers))
        flags = [*flags, "--distribution.strategy=multi_worker", f"--distribution.workers=[{addresses}]"]
    processes = []
    for worker in range(workers):
        place = str(worker) if workers > 1 else "none"
        command = [sys.executable, str(SCRIPT), str(steps), str(weights), place, f"--data.records={records}", *common]
        processes.append(
            subprocess.Popen([*command, *flags], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    reports = []
    for process in processes:
        output, errors = process.communicate(timeout=1800)
        assert process.returncode == 0, errors[-3000:]
        reports.append(json.loads(output.splitlines()[-1]))
    return reports


FAST = ["--optimizer.learning_rate=0.02"]  # five steps of which already differ visibly if an update is wrong
CASES = {
    "vit": (VIT, 20, 1e-5),
    "resnet": (RESNET, 20, 1e-5),
    "resnet, five steps": ([*RESNET, *FAST], 5, 1e-5),
    "vt_resnet": (VT_RESNET, 20, 1e-3),
}


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_both_engines_do_the_same(case, records, tmp_path):
    flags, steps, largest = CASES[case]
    tensorflow, jax = (run(name, records, tmp_path / "w.npz", flags, steps)[0] for name in ("tensorflow", "jax"))
    np.testing.assert_allclose(jax["losses"], tensorflow["losses"], rtol=0, atol=largest)
    assert np.ptp(tensorflow["losses"]) > 0.05
    assert jax["ids"] == tensorflow["ids"]
    assert jax["weights"].keys() == tensorflow["weights"].keys()


@pytest.mark.distributed
def test_a_teacher_teaches_alike_on_both_engines_and_in_two_processes(records, tmp_path):
    """The teacher is a file that the other process has written."""
    teacher = keras.Sequential([keras.Input((40, 40, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3)])
    teacher.add(keras.layers.GlobalAveragePooling2D())
    teacher.add(keras.layers.Dense(6, kernel_initializer=keras.initializers.RandomNormal(stddev=9.0, seed=1)))
    teacher.save(tmp_path / "teacher.keras")
    taught = [*VIT, f"--distillation.teacher={tmp_path / 'teacher.keras'}"]
    (alone,) = run("tensorflow", records, tmp_path / "w.npz", VIT, steps=4)
    (tensorflow,) = run("tensorflow", records, tmp_path / "w.npz", taught, steps=4)
    for name, workers in (("jax", 1), ("jax", 2), ("tensorflow", 2)):
        for report in run(name, records, tmp_path / "w.npz", taught, 4, workers):
            np.testing.assert_allclose(report["losses"], tensorflow["losses"], rtol=0, atol=1e-5)
    assert np.abs(np.subtract(tensorflow["losses"], alone["losses"])).max() > 0.1


MIRRORED = ["--distribution.strategy=mirrored"]
TWO_CPUS = [*MIRRORED, "--distribution.devices=[CPU:0,CPU:1]"]
LAYOUT = "{encoder_layer.*kernel: [null, data], patch_embedding/kernel: [null, null, null, data]}"
SHARDED = [*MIRRORED, f"--distribution.layout={LAYOUT}"]
REMATERIALIZED = ["--rematerialize=true"]
FORMS = {  # of one recipe: engine, flags, devices of each process, processes
    "two TensorFlow devices": ("tensorflow", TWO_CPUS, 2, 1),
    "two TensorFlow processes": ("tensorflow", [], 1, 2),
    "eight JAX devices": ("jax", MIRRORED, 8, 1),
    "two JAX processes": ("jax", [], 1, 2),
    "two TensorFlow processes, rematerialized": ("tensorflow", REMATERIALIZED, 1, 2),
    "two JAX processes, rematerialized": ("jax", REMATERIALIZED, 1, 2),
    "two JAX processes of two devices": ("jax", [], 2, 2),
    "sharded over eight JAX devices": ("jax", SHARDED, 8, 1),
}


@pytest.fixture(scope="module")
def on_one_device(records, tmp_path_factory):
    """Report and initial weights of a run on one device, by engine and flags."""
    known = {}

    def get(backend, flags, steps):
        key = backend, *flags
        if key not in known:
            weights = tmp_path_factory.mktemp("weights") / "w.npz"
            known[key] = run(backend, records, weights, flags, steps)[0], weights
        return known[key]

    return get


@pytest.mark.distributed
@pytest.mark.parametrize("form", FORMS)
def test_any_devices_and_processes_do_what_one_device_does(form, on_one_device, records):
    """With clipping, averaged weights, mixed images and accumulation."""
    backend, flags, devices, workers = FORMS[form]
    one, weights = on_one_device(backend, [*VIT, *MIXED], steps=20)
    reports = run(backend, records, weights, [*VIT, *MIXED, *flags], devices=devices, workers=workers)
    for worker, report in enumerate(reports):
        np.testing.assert_allclose(report["losses"], one["losses"], rtol=0, atol=1e-5)
        rows = rows_of(worker, workers, 16)
        assert report["ids"] == [[ids[row] for row in rows] for ids in one["ids"]]  # each reads only its own
        assert report["weights"] == pytest.approx(one["weights"], rel=2e-3)  # Adam makes steps of rounding too
        assert report["chief"] == (worker == 0)
        if form.startswith("sharded"):
            assert report["share_of_bytes"] < 0.2


@pytest.mark.distributed
@pytest.mark.parametrize("form", [form for form in FORMS if "sharded" not in form])
def test_batch_norms_see_the_whole_batch(form, on_one_device, records):
    """Five steps: such a small network amplifies rounding a thousandfold within ten."""
    backend, flags, devices, workers = FORMS[form]
    network = [*RESNET, "--model.options.synchronized_batch_norm=true"]
    one, weights = on_one_device(backend, network, steps=5)
    for report in run(backend, records, weights, [*network, *flags], 5, workers, devices):
        np.testing.assert_allclose(report["losses"], one["losses"], rtol=0, atol=1e-5)
        assert report["weights"] == pytest.approx(one["weights"], rel=2e-3)  # moving statistics too
