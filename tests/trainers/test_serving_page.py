"""The commands and lines of docs/serving.md and docs/tensorflow_serving.md run as printed, on the small run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from serving_stand_in import answer, rest_server
from small_records import CLASS_NAMES, tinted_image

import tfvt
from tfvt.export import MAX_PIXELS
from tfvt.trainers.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, SERVER_PAGE = ((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("serving", "tensorflow_serving"))
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
ASK, CHECK = (textwrap.dedent(code) for code in re.findall(r"^ *```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
(EXPORT,) = re.findall(r"```bash\n(.*?)```", SERVER_PAGE, re.DOTALL)
REST, GRPC = re.findall(r"```python\n(.*?)```", SERVER_PAGE, re.DOTALL)


@pytest.fixture
def workplace(finished_run, tmp_path, monkeypatch):
    """A folder with what the page supposes: a run, and images of its validation split."""
    shutil.copytree(finished_run, tmp_path / "runs" / "digits")
    images = tmp_path / "runs" / "demo" / "images" / "validation" / "3"
    images.mkdir(parents=True)
    for name in ("digit0045_0", "digit0045_1"):
        (images / f"{name}.png").write_bytes(tinted_image(1, np.random.default_rng(5)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_lines_run_as_printed(workplace, capsys):
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("tfvt", 0)
    assert re.search(r"digit0045_0.png: green [\d.]+%", capsys.readouterr().out)
    only_tensorflow = f"import sys\nsys.modules['tfvt'] = None\n{ASK}"
    result = subprocess.run([sys.executable, "-c", only_tensorflow], stdout=subprocess.PIPE, text=True, check=True)
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["digit0045_0.png", "green"],
        ["digit0045_1.png", "green"],
    ]
    signatures = tf.saved_model.load("served").signatures
    rows = re.findall(r"^\| (`.*?) \| (?:input|output) `(\w+)` \| (\w+) \((.*?)\)", PAGE, re.MULTILINE)
    for name, signature in signatures.items():
        described = signature.structured_input_signature[1] | signature.structured_outputs
        assert {key: (spec.dtype.name, len(spec.shape)) for key, spec in described.items()} == {
            key: (dtype, len([side for side in shape.split(",") if side]))
            for names, key, dtype, shape in rows
            if f"`{name}`" in names
        }
    names = json.loads(Path("served/assets.extra/class_names.json").read_text("utf-8"))
    assert names == list(CLASS_NAMES) == [name.decode() for name in signatures["class_names"]()["class_names"].numpy()]


def test_the_rest_lines_run_as_printed_against_a_stand_in(workplace, capsys):
    program, *words = shlex.split(EXPORT)
    assert (program, main(words)) == ("tfvt", 0)
    capsys.readouterr()
    signatures = tf.saved_model.load("models/digits/1").signatures
    with rest_server(signatures, "digits") as address:
        exec(REST.replace("localhost:8501", address), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["green", "green"]
    files = sorted(Path("runs/demo/images/validation/3").iterdir())
    shares = answer(signatures, None, {"image": np.array([file.read_bytes() for file in files], object)})[
        "probabilities"
    ]
    np.testing.assert_allclose([float(line.split()[1]) for line in lines], shares.max(axis=1), rtol=1e-6)


@pytest.mark.parity
def test_the_grpc_lines_and_the_warm_up_requests_run_against_a_stand_in(workplace, capsys):
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

    assert main(shlex.split(EXPORT)[1:]) == 0
    signatures = tf.saved_model.load("models/digits/1").signatures

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def predict(self, request, context=None):
            assert request.model_spec.name in ("digits", "")
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            reply = predict_pb2.PredictResponse()
            for name, value in answer(signatures, request.model_spec.signature_name, inputs).items():
                reply.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return reply

        Predict = predict  # the base's name

    requests = tf.data.TFRecordDataset("models/digits/1/assets.extra/tf_serving_warmup_requests")
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in requests]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * 3
    replies = {
        log.predict_log.request.model_spec.signature_name: Service().predict(log.predict_log.request) for log in logs
    }
    assert set(replies) == {"serving_default", "image", "features"}
    assert tf.make_ndarray(replies["image"].outputs["probabilities"]).shape == (1, len(CLASS_NAMES))
    (sent,) = tf.make_ndarray(logs[0].predict_log.request.inputs["image"])
    expected = signatures["serving_default"](image=tf.constant([sent]))["probabilities"]
    np.testing.assert_array_equal(tf.make_ndarray(replies["serving_default"].outputs["probabilities"]), expected)
    for name, log in zip(("serving_default", "image", "features"), logs, strict=True):  # nothing else was written
        again = prediction_log_pb2.PredictionLog()
        again.predict_log.request.model_spec.signature_name = name
        again.predict_log.request.inputs["image"].CopyFrom(log.predict_log.request.inputs["image"])
        assert again == log

    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    capsys.readouterr()
    try:
        names = {"files": sorted(Path("runs/demo/images/validation/3").iterdir())}
        exec(GRPC.replace("localhost:8500", f"localhost:{port}"), names)
        assert capsys.readouterr().out == "['green', 'green']\n"
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = "class_names"
        found = tf.make_ndarray(names["service"].Predict(request).outputs["class_names"])
        assert [name.decode() for name in found] == list(CLASS_NAMES)
    finally:
        server.stop(None)


WITHOUT_TFVT = """
import keras, sys
keras.models.load_model(sys.argv[1])
"""


def test_a_file_that_is_loaded_without_tfvt_says_what_the_page_says(tmp_path):
    blocks = ({"layers": 1, "hidden_dim": 64, "mlp_dim": 32},)
    tfvt.create_model("vit_tiny16", blocks=blocks, input_shape=(32, 32, 3)).save(tmp_path / "final.keras")
    command = [sys.executable, "-c", WITHOUT_TFVT, str(tmp_path / "final.keras")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 1
    message, place = re.search(r"stops with `(.*?) \.\.\.` and\nnames the place as `(.*?)`", PAGE).groups()
    assert message in result.stderr
    assert place in result.stderr


def test_the_check_of_uploads_finds_half_a_jpeg_that_the_model_answers(workplace, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = tf.io.encode_jpeg(pixels).numpy()
    ended = whole[: len(whole) // 2] + b"\xff\xd9"
    assert main(["export", "runs/digits", "served"]) == 0
    capsys.readouterr()
    assert tf.saved_model.load("served").signatures["serving_default"](image=tf.constant([ended]))["label"].shape == (
        1,
    )
    exec(CHECK, {"upload": whole})
    assert capsys.readouterr().out == ""
    exec(CHECK, {"upload": ended})
    assert capsys.readouterr().out.startswith("damaged: Corrupt JPEG data: premature end")


def test_the_limit_is_that_of_the_code():
    assert f"by default {MAX_PIXELS:,}, which is 8192 x 8192" in PAGE
    assert f"the limit is {MAX_PIXELS}`" in PAGE
