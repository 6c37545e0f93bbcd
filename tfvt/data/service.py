"""tf.data service: decoding on other machines, with the same stream that this machine would make.

TensorFlow's service deals elements out to its workers first come, first served. To keep the order, every server here is
a dispatcher with one worker of its own, and the client takes the batches from the servers in turn.
"""

import contextlib
import socket
import sys
from collections.abc import Sequence

import tensorflow as tf

from tfvt.errors import UsageError

MAX_PORT = 65535


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
        check_answer(server)
        # One worker without sharding keeps the order. Pixels hardly compress.
        distribute = tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.OFF, service=server, compression=None
        )
        remote.append(stream.apply(distribute))
    return tf.data.Dataset.choose_from_datasets(remote, tf.data.Dataset.range(len(remote)).repeat())


def check_answer(server: str) -> None:
    """Check that a server answers: TensorFlow itself would try for an hour.

    Raises:
        ValueError: the address has another form than "grpc://host:port", or nothing answers there.
    """
    try:
        socket.create_connection(check_address(server), timeout=10).close()
    except OSError as error:
        raise ValueError(f"no server at {server} ({error}): start one there with `tfvt records serve`") from error


def check_address(server: str) -> tuple[str, int]:
    """Host and port of an address "grpc://host:port".

    Raises:
        ValueError: it has another form.
    """
    host, _, port = server.removeprefix("grpc://").rpartition(":")
    if not server.startswith("grpc://") or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"servers: {server!r} is not an address of the form grpc://host:port")
    return host, int(port)


class Server:
    """A dispatcher and its worker, which run until `stop`.

    Args:
        port: of the dispatcher, which clients name; 0: any free port.
        worker_port: of the worker, from which clients fetch batches; 0: any free port.
        host: the name under which clients reach this machine.

    Attributes:
        address: what clients give as one of `servers`.

    Raises:
        UsageError: a port that does not exist, or the same one twice.
        OSError: a port is taken.
    """

    def __init__(self, *, port: int = 0, worker_port: int = 0, host: str = "localhost") -> None:
        for number in (port, worker_port):
            if not 0 <= number <= MAX_PORT:
                raise UsageError(f"port {number} does not exist: name one from 1 to {MAX_PORT}, or 0 for any free one")
        if port and port == worker_port:
            raise UsageError(f"the dispatcher and its worker cannot share port {port}: give them two")
        service = tf.data.experimental.service
        with contextlib.ExitStack() as stack:
            for number in filter(None, (port, worker_port)):
                stack.enter_context(_reserve(number))
            try:
                self.dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
                port = int(self.dispatcher.target.rpartition(":")[2])
                worker = service.WorkerConfig(f"localhost:{port}", worker_address=f"{host}:%port%", port=worker_port)
                self.worker = service.WorkerServer(worker)
            except (tf.errors.OpError, RuntimeError) as error:
                raise OSError(f"cannot serve at ports {port} and {worker_port}: {error}") from error
            self._reserved = stack.pop_all()
        self.address = f"grpc://{host}:{port}"

    def stop(self) -> None:
        """End both; clients that wait for them get an error."""
        self.worker._stop()
        self.dispatcher._stop()
        self._reserved.close()


@contextlib.contextmanager
def _reserve(port):
    """Make sure that nobody else serves at a port: TensorFlow's servers would share it, and clients would hang.

    Raises:
        OSError: another process serves there.
    """
    with contextlib.ExitStack() as stack:
        try:
            if sys.platform == "linux":  # keeps out servers that start at the same moment
                guard = stack.enter_context(socket.socket(socket.AF_UNIX))
                guard.bind(f"\0tfvt-records-serve-{port}")  # no file, and gone with the process
            socket.create_server(("", port)).close()
        except OSError as error:
            raise OSError(
                f"cannot serve at port {port} ({error.strerror}): stop what uses it, or choose another with --port and "
                "--worker-port"
            ) from error
        yield
