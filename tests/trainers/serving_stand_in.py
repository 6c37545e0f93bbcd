"""What a server of TensorFlow Serving makes of a request, around a SavedModel that is loaded in this process."""

import base64
import contextlib
import http.server
import json
import threading

import numpy as np
import tensorflow as tf


def answer(signatures, name, inputs):
    """The outputs of a signature by name, of arrays by name that have the names and types of its inputs, and no others.

    Raises:
        ValueError: they are others.
    """
    signature = signatures[name or "serving_default"]
    specs = signature.structured_input_signature[1]
    if {key: tf.as_dtype(np.asarray(value).dtype) for key, value in inputs.items()} != {
        key: spec.dtype for key, spec in specs.items()
    }:
        raise ValueError(f"inputs {sorted(inputs)} for {specs}")
    return {key: value.numpy() for key, value in signature(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


def of_json(value):
    """REST's form of strings of bytes."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value


def to_json(outputs, row):
    """A row of the outputs by name; strings are UTF-8 there."""
    row = {name: value[row : row + 1].tolist()[0] for name, value in outputs.items()}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}


def rows(signatures, request):
    """The reply to a request in REST's row format: `{"instances": [{input: value}, ...]}`."""
    instances = request["instances"]
    names = instances[0].keys()
    inputs = {name: np.array([of_json(row[name]) for row in instances], object) for name in names}
    outputs = answer(signatures, request.get("signature_name"), inputs)
    return {"predictions": [to_json(outputs, row) for row in range(len(instances))]}


@contextlib.contextmanager
def rest_server(signatures, model):
    """The address of a server of a model by that name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == f"/v1/models/{model}:predict"
            reply = json.dumps(rows(signatures, json.loads(body))).encode() if known else b"{}"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("localhost", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
