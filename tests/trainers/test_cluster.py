"""Who takes part in a training, what they agree on, and who has gone."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from jax.sharding import PartitionSpec

from tfvt.errors import UsageError
from tfvt.trainers.engines import cluster, configure_process, tensorflow
from tfvt.trainers.engines.cluster import (
    Agreement,
    Cluster,
    describe,
    find_cluster,
    from_chief,
    lost_process,
    on_chief,
)
from tfvt.trainers.engines.sharding import Layout
from tfvt.trainers.engines.tensorflow import TensorFlowDevices
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.recipes.recipe import DistributionRecipe

TWO = ("a:1", "b:2")


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)


def recipe(workers=()):
    return DistributionRecipe("multi_worker", workers=workers)


def test_the_flag_or_the_environment_says_which_process_this_is(monkeypatch):
    assert find_cluster(DistributionRecipe(), None) is None
    assert find_cluster(recipe(), None) is None  # JAX may find the others itself
    assert find_cluster(recipe(TWO), 1) == Cluster(TWO, 1)
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps({"cluster": {"worker": ["c:3", "d:4"]}, "task": {"type": "worker", "index": 1}})
    )
    assert find_cluster(recipe(), None) == Cluster(("c:3", "d:4"), 1)
    assert find_cluster(recipe(TWO), None) == Cluster(TWO, 1)
    assert find_cluster(recipe(TWO), 0) == Cluster(TWO, 0)
    roles = {"cluster": {"chief": ["c:3"], "worker": ["d:4", "e:5"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(roles))
    assert find_cluster(recipe(), None) == Cluster(("c:3", "d:4", "e:5"), 2)


@pytest.mark.parametrize(
    ("workers", "worker", "config", "message"),
    [
        (TWO, None, "", "which of the 2 processes is this one"),
        (TWO, 2, "", "--worker 2: there are 2 processes, 0 to 1"),
        (TWO, -1, "", "--worker -1: there are 2 processes"),
        (("a:1", "a:1"), 0, "", "names an address twice"),
        (("a", "b:1"), 0, "", "'a' is not host:port"),
        (("a:0", "b:1"), 0, "", "'a:0' is not host:port"),
        ((), 1, "", "--worker needs the addresses of all processes"),
        ((), None, "{", "TF_CONFIG cannot be read"),
        ((), None, '{"cluster": [], "task": 3}', "TF_CONFIG cannot be read"),
    ],
)
def test_contradictions_are_named(workers, worker, config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UsageError, match=message):
        find_cluster(recipe(workers), worker)


def test_one_device_has_no_workers():
    with pytest.raises(UsageError, match=r"--worker is for distribution\.strategy multi_worker, not default"):
        find_cluster(DistributionRecipe(), 0)


class Others:
    """Processes of which the others say what they are told to say."""

    def __init__(self, index, rows):
        self.index, self.count, self.rows, self.calls = index, len(rows), rows, 0

    def gather(self, values):
        self.calls += 1
        rows = [values if row is None else np.resize(row, values.shape) for row in self.rows]
        return np.array(rows, np.float32)


def test_all_stop_with_the_signal_of_one():
    for own, other, expected in [
        (None, [0, 1000], None),
        (None, [15, 1000], 15),
        (2, [0, 1000], 2),
        (2, [15, 1000], 15),
    ]:
        assert Agreement(Others(0, [None, np.array(other)]))(own) == expected


def test_the_processes_ask_each_other_about_once_a_second():
    """After as many calls as the slowest of them makes in a second: here ten."""
    others = Others(0, [None, np.array([0, 10])])
    agree = Agreement(others)
    agree.last -= 1e-3
    assert [agree(None) for _ in range(31)] == [None] * 31
    assert others.calls == 4


def test_the_chief_alone_acts_and_all_fail_alike():
    acted = []
    on_chief(Others(0, [None, None]), lambda: acted.append(0))
    on_chief(Others(1, [np.zeros(1), None]), lambda: acted.append(1))
    assert acted == [0]

    def fail():
        raise UsageError("this folder is full: ä")

    with pytest.raises(UsageError, match=r"^this folder is full: ä$"):
        on_chief(Others(0, [None, None]), fail)
    said = np.frombuffer("this folder is full: ä".encode(), np.uint8)
    said = np.concatenate([said, np.zeros(2000 - len(said))])
    with pytest.raises(UsageError, match=r"^this folder is full: ä$"):
        on_chief(Others(1, [said, None]), fail)
    assert from_chief(Others(1, [said, None]), "other") == "this folder is full: ä"


def test_the_process_at_whose_address_nothing_listens_has_gone():
    with socket.create_server(("127.0.0.1", 0)) as alive, socket.create_server(("127.0.0.1", 0)) as gone:
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (alive, gone)]
        cluster = Cluster((*addresses, "127.0.0.1:9"), 2)
        assert cluster.missing() == []
        gone.close()
        assert cluster.missing() == [1]
        assert str(lost_process(cluster, "why")).startswith(f"process 1 ({addresses[1]}) of this training has gone")
    assert str(lost_process(None, "why")).startswith("another process of this training has gone")


@pytest.fixture(scope="module")
def layers():
    """A model's variables and an optimizer's; the mesh has two devices on an axis that is called data."""
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(keras.layers.Dense(4, name="first")(inputs)))
    optimizer = keras.optimizers.Adam(name="adam")
    optimizer.build(model.trainable_variables)
    return {"model": model.variables, "optimizer": optimizer.variables, "average": []}


class TwoDevices:
    shape = {"data": 2}  # noqa: RUF012


def test_the_optimizer_is_split_like_its_weights(layers):
    layout = Layout({"first/kernel": [None, "data"], ".*/bias": [None]}, TwoDevices(), layers)
    split = {v.path for kind in layers.values() for v in kind if layout.of(v) == PartitionSpec(None, "data")}
    assert split == {"first/kernel", "adam/first_kernel_momentum", "adam/first_kernel_velocity"}
    assert layout.of(layers["model"][0]) == PartitionSpec(None, "data")
    assert layout.of(layers["model"][2]) == PartitionSpec()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"second/kernel": [None, "data"]}, "no weight's path matches 'second/kernel'"),
        ({"first/kernel": ["data"]}, "must name an axis or null for each of its 2 dimensions"),
        ({"first/kernel": [None, "rows"]}, "the mesh has no axis 'rows'; it has data"),
        ({"last/kernel": [None, "data"]}, r"of last/kernel \(4, 3\): 3 does not divide by the 2 devices of 'data'"),
        ({"(": []}, "is no regular expression"),
    ],
)
def test_layouts_that_do_not_fit_are_named(layout, message, layers):
    with pytest.raises(UsageError, match=message):
        Layout(layout, TwoDevices(), layers)


@pytest.fixture
def peer():
    """A process that listens, as far as anybody can see."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_an_error_of_this_machine_is_not_another_process_that_has_gone(peer, monkeypatch):
    monkeypatch.setattr(cluster, "PROBE_SECONDS", 0.2)
    devices = object.__new__(TensorFlowDevices)
    devices.count = 2
    devices.cluster = Cluster(("127.0.0.1:1", f"127.0.0.1:{peer.getsockname()[1]}"), 0)
    broken = tf.errors.InternalError(None, None, "cuDNN launch failure")
    assert devices.explain(broken) is None
    assert isinstance(devices.explain(tf.errors.InternalError(None, None, "Collective ops is aborted")), UsageError)
    assert isinstance(devices.explain(tf.errors.UnavailableError(None, None, "Connection reset")), UsageError)
    peer.close()
    assert "process 1 (127.0.0.1:" in str(devices.explain(broken))


def test_jax_says_when_nothing_names_the_processes(tmp_path):
    code = "import sys; from tfvt.trainers.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "--config", "digits_vit", "--data.records", "x"]
    command += ["--distribution.strategy", "multi_worker", "--output", str(tmp_path / "run")]
    done = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "nothing says which processes take part: set distribution.workers" in done.stderr


@pytest.mark.parametrize(
    ("strategy", "device", "setting", "deterministic"),
    [
        ("default", "CPU", None, True),
        ("default", "GPU", None, False),
        ("default", "GPU", True, True),
        ("default", "CPU", False, False),
        ("tpu", "CPU", None, False),  # of another machine
    ],
)
def test_operations_are_deterministic_where_that_costs_little(strategy, device, setting, deterministic, monkeypatch):
    asked = []
    listed = {"CPU": ["CPU:0"], device: [f"{device}:0"]}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: listed.get(kind, []))
    monkeypatch.setattr(tensorflow, "make_deterministic", lambda: asked.append(True))
    monkeypatch.setattr(tensorflow, "TensorFlowDevices", lambda recipe, cluster, said: said)
    flags = ["--model.name=resnet18", "--data.records=x", f"--distribution.strategy={strategy}"]
    said = configure_process(parse_recipe([*flags, f"--deterministic={json.dumps(setting)}"]))
    assert said == bool(asked) == deterministic


def test_a_run_says_whether_its_operations_are_deterministic():
    assert describe(2, ["GPU"], 1, False) == "2 GPU devices, not deterministic operations"
    assert describe(1, ["CPU"], 2, True) == "1 CPU device of 2 processes, deterministic operations"
