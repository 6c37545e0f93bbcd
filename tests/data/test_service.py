"""Batches that other processes make: the very stream of this one, and their errors."""

import contextlib
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from record_files import batches, record, train_batches, write_records

from tfvt.data.mixing import Mixing
from tfvt.data.order import HostShare
from tfvt.data.service import Server, _reserve
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main


def assert_equal_streams(found, expected):
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys() == other.keys()
        assert all(batch[name].tobytes() == other[name].tobytes() for name in batch)


@contextlib.contextmanager
def serving(count):
    """Addresses of that many servers in this process."""
    servers = [Server() for _ in range(count)]
    try:
        yield [server.address for server in servers]
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def processes():
    """Addresses of two servers in processes of their own."""
    command = "import sys; from tfvt.trainers.cli import main; sys.exit(main(['records', 'serve']))"
    started = [
        subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        lines = [process.stdout.readline() for process in started]
        yield [re.fullmatch(r"serving at (grpc://localhost:\d+); Ctrl-C stops\n", line)[1] for line in lines]
        for process, number in zip(started, (signal.SIGINT, signal.SIGTERM), strict=True):
            process.send_signal(number)
            assert process.wait(timeout=60) == 0
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_two_servers_give_the_stream_and_each_record_once_an_epoch(records, processes):
    options = {"batch_size": 4, "seed": 2, "block_size": 6}
    found = batches(records, 10, servers=processes, **options)
    assert_equal_streams(found, batches(records, 10, **options))
    for epoch in np.reshape([batch["id"] for batch in found], (2, 20)).tolist():
        assert len(set(epoch)) == 20


def test_stream_is_that_of_any_number_of_servers_entered_anywhere(records):
    options = {"batch_size": 4, "seed": 2, "repeats": 2, "mixing": Mixing(1.0, 1.0), "skip_damaged": True}
    options |= {"share": HostShare(2, 1)}
    expected = batches(records, 8, **options)
    with serving(3) as servers:
        assert_equal_streams(batches(records, 5, start_step=3, servers=servers, **options), expected[3:])


def test_damaged_record_on_a_server_is_named(tmp_path):
    records = write_records(tmp_path, (3,), replaced={1: record(1, encoded=b"no image")})
    with (
        serving(1) as servers,
        pytest.raises(tf.errors.InvalidArgumentError, match=r"record 1 of .*train-00000-of-00001 holds no image"),
    ):
        batches(records, 3, batch_size=1, seed=0, servers=servers)


def test_two_servers_at_one_port_are_refused(records):
    """TensorFlow's servers share a port, and a client then waits for ever."""
    with serving(1) as (server,):
        port = int(server.rpartition(":")[2])
        for option in ("port", "worker_port"):
            with pytest.raises(OSError, match=f"cannot serve at port {port}"):
                Server(**{option: port})
        assert len(batches(records, 1, batch_size=4, seed=2, servers=[server])) == 1
    Server(port=port).stop()  # free again
    Server(port=port).stop()


def test_server_that_is_just_starting_keeps_its_port():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with _reserve(port), pytest.raises(OSError, match=f"cannot serve at port {port}"), _reserve(port):
        pass
    with _reserve(port):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 99999}, "port 99999 does not exist: name one from 1 to 65535, or 0 for any free one"),
        ({"worker_port": -1}, "port -1 does not exist"),
        ({"port": 5050, "worker_port": 5050}, "the dispatcher and its worker cannot share port 5050"),
    ],
)
def test_impossible_ports_are_refused(options, message, capsys):
    with pytest.raises(UsageError, match=message):
        Server(**options)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main(["serve", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tfvt records serve: error: {message}")


def test_wrong_and_silent_addresses_are_named(records):
    options = {"batch_size": 4, "seed": 0}
    for address in ("localhost:5000", "grpc://localhost", "grpc://:5000", "grpc://localhost:http"):
        with pytest.raises(ValueError, match=f"servers: '{address}' is not an address of the form grpc://host:port"):
            train_batches(records, servers=[address], **options)
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("port", "worker_port"):
            with pytest.raises(OSError, match=rf"cannot serve at port {port} \(.*\): stop what uses it, or choose"):
                Server(**{option: port})
    with pytest.raises(ValueError, match=rf"no server at grpc://localhost:{port} .*tfvt records serve"):
        train_batches(records, servers=[f"grpc://localhost:{port}"], **options)
