"""tf.data service: decoding on other machines, with the very stream that this machine would have made.

TensorFlow's service deals elements out to its workers first come, first served. To keep the order, every server here is
a dispatcher with one worker of its own, and the client takes the batches from the servers in turn.
"""

import socket
from collections.abc import Sequence

import tensorflow as tf


def from_servers(servers: Sequence[str], streams: Sequence[tf.data.Dataset]) -> tf.data.Dataset:
    """Element k of the result is the next one of stream `k % len(servers)`, which that server makes.

    Args:
        servers: their addresses, "grpc://host:port".
        streams: one for each server, endless.

    Raises:
        ValueError: an address has another form, or nothing answers there.
    """
    remote = []
    for server, stream in zip(servers, streams, strict=True):
        host, port = check_address(server)
        try:
            socket.create_connection((host, port), timeout=10).close()  # TensorFlow itself would try for an hour
        except OSError as error:
            raise ValueError(f"no server at {server} ({error}): start one there with `tfvt records serve`") from error
        # One worker without sharding keeps the order. Pixels hardly compress.
        distribute = tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.OFF, service=server, compression=None
        )
        remote.append(stream.apply(distribute))
    return tf.data.Dataset.choose_from_datasets(remote, tf.data.Dataset.range(len(remote)).repeat())


def check_address(server: str) -> tuple[str, int]:
    """Host and port of an address "grpc://host:port".

    Raises:
        ValueError: it has another form.
    """
    host, _, port = server.removeprefix("grpc://").rpartition(":")
    if not server.startswith("grpc://") or not host or not port.isdecimal():
        raise ValueError(f"servers: {server!r} is no address of the form grpc://host:port")
    return host, int(port)


class Server:
    """A dispatcher and its worker, which run until `stop`.

    Args:
        port: of the dispatcher, which clients are told; 0: any that is free.
        worker_port: of the worker, which clients fetch batches from; 0: any that is free.
        host: the name under which clients reach this machine.

    Attributes:
        address: what clients give as one of `servers`.

    Raises:
        OSError: a port is taken.
    """

    def __init__(self, *, port: int = 0, worker_port: int = 0, host: str = "localhost"):
        service = tf.data.experimental.service
        try:
            self.dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
            port = int(self.dispatcher.target.rpartition(":")[2])
            worker = service.WorkerConfig(f"localhost:{port}", worker_address=f"{host}:%port%", port=worker_port)
            self.worker = service.WorkerServer(worker)
        except (tf.errors.OpError, RuntimeError) as error:
            raise OSError(f"cannot serve at ports {port} and {worker_port}: {error}") from error
        self.address = f"grpc://{host}:{port}"

    def stop(self) -> None:
        """End both; clients that wait for them get an error."""
        self.worker._stop()
        self.dispatcher._stop()
