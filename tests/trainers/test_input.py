"""The input options of a recipe in a run: augmentation, mixing, repetitions, damaged records, several hosts."""

import csv
import itertools
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from host_rows import rows_of
from mask_records import write_masks
from rich.console import Console

from tfvt.data import stream as stream_module
from tfvt.data.order import HostShare
from tfvt.data.records import open_records
from tfvt.errors import UsageError
from tfvt.trainers import loop as loop_module
from tfvt.trainers.engines import tensorflow, tensorflow_batches
from tfvt.trainers.engines.engine import ServersGoneError
from tfvt.trainers.engines.tensorflow import TensorFlowDevices, TensorFlowEngine
from tfvt.trainers.engines.tensorflow_batches import BatchIterator, served_batches
from tfvt.trainers.loop import Loop, epoch_steps
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.folder import Run, start_run
from tfvt.trainers.run.lock import locked
from tfvt.trainers.stop import Interrupted
from tfvt.trainers.tasks.classification import Classification, cross_entropy

EVERYTHING = [
    "--data.train.auto_augment=randaugment",
    "--data.train.color_jitter=0.3",
    "--data.train.random_erasing=0.25",
    "--data.mixing.mixup_alpha=0.8",
    "--data.mixing.cutmix_alpha=1.0",
    "--data.repeats=3",
    "--data.skip_damaged=true",
    "--epochs=2",
]


def damaged(records, tmp_path):
    """A copy of the records in which the fourth of the first training shard cannot be read."""
    copy = tmp_path / "records"
    copy.mkdir()
    for path in Path(records).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = Path(open_records(copy, "train").shard_paths[0])
    lengths = [len(serialized) + 16 for serialized in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()]
    content = bytearray(shard.read_bytes())
    content[sum(lengths[:3]) + 100] ^= 1
    shard.write_bytes(content)
    return copy


def loop_of(recipe, run):
    task = Classification(recipe)
    engine = TensorFlowEngine(recipe, task, epoch_steps(task, recipe), TensorFlowDevices(recipe.distribution))
    return Loop(recipe, run, task, engine, Console(quiet=True))


def train(config, folder, *flags):
    recipe = parse_recipe(["--config", str(config), *flags])
    run = Run(folder)
    loop = loop_of(recipe, run)
    with locked(run.folder):
        start_run(run, recipe)
        loop.train()
    with run.metrics.open() as file:
        return list(csv.DictReader(file))


def test_a_run_with_everything_on_counts_what_it_skips(config, records, tmp_path):
    copy = damaged(records, tmp_path)
    rows = train(config, tmp_path / "run", f"--data.records={copy}", *EVERYTHING)
    assert all(np.isfinite(float(row["train_loss"])) for row in rows)
    # With three samples of a record, an epoch of 48 uses 16 of the 48 records.
    assert all(int(row["train_skipped"]) in (0, 3) for row in rows)
    assert [row["validation_skipped"] for row in rows] == ["0", "0"]
    rows = train(config, tmp_path / "once", f"--data.records={copy}", "--data.skip_damaged=true", "--epochs=2")
    assert [row["train_skipped"] for row in rows] == ["1", "1"]


def test_a_damaged_record_stops_a_run_unless_it_may_be_skipped(config, records, tmp_path):
    with pytest.raises(UsageError, match=r"record 3 of .*train-00000-of-00002 is damaged or cut off"):
        train(config, tmp_path / "run", f"--data.records={damaged(records, tmp_path)}", "--epochs=2")


def test_soft_targets_are_smoothed_like_labels():
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(size=(4, 6)), tf.float32)
    labels = tf.constant([0, 5, 2, 2])
    hard = cross_entropy(labels, logits, 0.1)
    np.testing.assert_allclose(cross_entropy(tf.one_hot(labels, 6), logits, 0.1), hard, rtol=1e-6)
    share = 0.3
    mixed = share * tf.one_hot(labels, 6) + (1 - share) * tf.one_hot(labels[::-1], 6)
    expected = share * hard + (1 - share) * cross_entropy(labels[::-1], logits, 0.1)
    np.testing.assert_allclose(cross_entropy(mixed, logits, 0.1), expected, rtol=1e-5)


def test_a_row_of_weight_zero_moves_nothing_but_norms(config):
    """The gradient of a batch with a row of weight 0 is that of any other image in its place."""
    flags = ["--model.options.dropout_rate=0", "--model.options.drop_path_rate=0", "--epochs=2"]
    recipe = parse_recipe(["--config", str(config), *flags])
    engine = TensorFlowEngine(recipe, Classification(recipe), 6, TensorFlowDevices(recipe.distribution))
    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.uniform(0, 255, (8, 32, 32, 3)), tf.float32),
        "target": tf.constant(rng.dirichlet([1] * 6, 8), tf.float32),
        "weight": tf.constant([1.0] * 7 + [0.0]),
    }
    other = batch | {"target": tf.concat([batch["target"][:7], [[0, 0, 0, 0, 0, 1.0]]], 0)}
    first, second = engine._local_gradients(batch), engine._local_gradients(other)
    for gradient, expected in zip(first, second, strict=True):
        np.testing.assert_array_equal(gradient, expected)
    assert engine.read_sums("train")["images"] == 14
    weighted = engine._local_gradients({**batch, "weight": tf.ones(8)})
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(weighted, first, strict=True))


class AskedForTheStream(Exception):  # noqa: N818 (no error)
    """What the training loop asked for is known."""


def test_servers_and_block_size_of_the_recipe_reach_the_training_stream(config, tmp_path, monkeypatch):
    asked = []

    def stream(records, samples, settings, *_):
        asked.append((settings.servers, settings.block_size))
        raise AskedForTheStream

    monkeypatch.setattr(loop_module, "train_stream", stream)
    servers = ("grpc://first:5050", "grpc://second:5050")
    for number, flags in enumerate(([f"--data.servers={list(servers)}", "--data.block_size=16"], [])):
        with pytest.raises(AskedForTheStream):
            train(config, tmp_path / str(number), *flags)
    assert asked == [(servers, 16), ((), 16_384)]


class TwoHosts:
    """What the engine asks of a strategy on two hosts of two devices each."""

    num_replicas_in_sync = 4

    def __init__(self, host):
        self.host = host

    def distribute_datasets_from_function(self, make):
        return make(tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=self.host))


def test_each_host_makes_its_rows_and_each_device_gets_its_own(config):
    loop = loop_of(parse_recipe(["--config", str(config)]), Run(Path("unused")))
    whole = list(loop._train_stream(HostShare()).take(3).as_numpy_iterator())
    devices = []
    for host in range(2):
        loop.engine.strategy = TwoHosts(host)
        batches = loop.engine.eval_batches(loop._train_stream).dataset
        assert batches.element_spec["image"].shape == (2, 32, 32, 3)
        devices.append(list(batches.take(6).as_numpy_iterator()))
    for step, batch in enumerate(whole):
        for host in range(2):
            parts = [devices[host][2 * step + device] for device in range(2)]
            for name, value in batch.items():
                own = value[rows_of(host, 2, 8)]
                assert np.concatenate([part[name] for part in parts]).tobytes() == own.tobytes()


NO_SERVER = "grpc://localhost:1"


def waiting_forever(first):
    yield from first
    threading.Event().wait()


def test_waiting_for_servers_ends_when_they_are_gone_or_the_run_is_to_stop(monkeypatch):
    monkeypatch.setattr(tensorflow_batches, "SIGN_OF_LIFE_SECONDS", 0.01)
    batches = served_batches(waiting_forever([1, 2]), [NO_SERVER], lambda: None)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(ServersGoneError, match=rf"^data.servers: no server at {NO_SERVER} .*continue with --resume$"):
        next(batches)

    def stop():
        raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        next(served_batches(waiting_forever([]), [NO_SERVER], stop))


def test_a_server_that_was_started_anew_is_one_line(monkeypatch):
    def forgotten():
        yield 1
        raise tf.errors.NotFoundError(None, None, "Dataset id 1000 not found\n" + "a page of nodes\n" * 99)

    def damaged():
        raise tf.errors.InvalidArgumentError(None, None, "assertion failed: [record 3 of x is damaged]")
        yield

    with socket.create_server(("localhost", 0)) as server:
        address = f"grpc://localhost:{server.getsockname()[1]}"
        batches = served_batches(forgotten(), [address], lambda: None)
        assert next(batches) == 1
        with pytest.raises(ServersGoneError, match=rf"{address} gave no more batches: Dataset id 1000 not") as error:
            next(batches)
        assert len(str(error.value)) < 300
        records = BatchIterator(served_batches(damaged(), [address], lambda: None))
        with pytest.raises(UsageError, match=r"^record 3 of x is damaged$"):
            next(records)


def test_a_run_whose_servers_go_saves_its_state(config, tmp_path, monkeypatch):
    """Its batches are those of `finished_run`'s stream; the ninth does not come."""

    def gone(batches, servers, check_stop):
        yield from itertools.islice(batches, 8)
        raise ServersGoneError("data.servers: gone")

    monkeypatch.setattr(tensorflow, "served_batches", gone)
    monkeypatch.setattr(stream_module, "from_servers", lambda servers, streams: streams[0])
    with pytest.raises(ServersGoneError):
        train(config, tmp_path / "run", f"--data.servers=[{NO_SERVER}]", "--checkpoints.every_steps=null", "--epochs=2")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-000000006.safetensors",
        "step-000000008.safetensors",
    ]


def test_records_of_masks_are_refused_before_training(tmp_path, fails):
    records = write_masks(tmp_path / "masks", (3,)).directory
    line = fails(
        *("train", "--model.name=resnet18", f"--data.records={records}", "--data.validation_split=train"),
        f"--output={tmp_path / 'run'}",
    )
    assert f"{records} holds images with masks and without classes" in line
    assert "or choose a model for what it holds (`tfvt models`)" in line
    assert not (tmp_path / "run").exists()
