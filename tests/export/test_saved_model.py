"""The SavedModel on image bytes, loaded in another process and compared with the model."""

import io
import json
import resource
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from photographs import as_seen, photograph_on_its_side
from PIL import Image

import tests.contracts as contracts
import tfvt
from tests.memory import OWN_PEAK
from tfvt.data.classification import ClassificationServing
from tfvt.data.images import EvalPreprocessing, decode_and_center_crop
from tfvt.errors import WriteError
from tfvt.export import export_saved_model
from tfvt.export.warm_up import write_warm_up

PREPROCESSING = EvalPreprocessing(image_size=(64, 64), crop_ratio=0.875)
NAMES = ("cat", "dog", "žába")
SERVING = ClassificationServing(NAMES, PREPROCESSING)


def encoded(mode, size, file_format, seed):
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """JPEG and PNG, colour, grey and CMYK, of many sizes."""
    folder = tmp_path_factory.mktemp("images")
    made = [
        ("RGB", (80, 60), "JPEG"),
        ("RGB", (64, 64), "PNG"),
        ("L", (31, 200), "JPEG"),
        ("CMYK", (90, 70), "JPEG"),
        ("RGBA", (33, 33), "PNG"),
    ]
    paths = []
    for i, (mode, size, file_format) in enumerate(made):
        path = folder / f"{i}.{file_format.lower()}"
        path.write_bytes(encoded(mode, size, file_format, seed=i))
        paths.append(path)
    return paths


ASK = """
import json, sys
import tensorflow as tf  # nothing of Keras or this package: what a server has

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = []
for batch in json.loads(sys.argv[2]):
    out = serve(image=tf.constant([open(path, "rb").read() for path in batch]))
    names = [name.decode() for name in out["name"].numpy()]
    answers.append([out["label"].numpy().tolist(), names, out["probabilities"].numpy().tolist()])
print(json.dumps(answers))
"""


FUNNEL = {"blocks": ({"layers": 1, "hidden_dim": 64}, {"layers": 1, "hidden_dim": 64, "stride": 2})}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("funnel_vit_base16_6_6", FUNNEL),
        ("funnel_vit_base16_6_6", FUNNEL | {"pool_over": "grid", "features": ("P4",)}),
        ("acmix_pvt_tiny", {}),
        ("acmix_swin_tiny", {}),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in tfvt.list_models()),
    ],
)
def test_a_graph_takes_any_number_of_images(name, options):
    """Static lengths must not come from a static batch size: an exported model has none."""
    model = tfvt.create_model(name, input_shape=contracts.image_shape(name), **options)
    images = contracts.random_images((2, *contracts.image_shape(name)))
    graph = tf.function(lambda x: model(x, training=False))
    graph = graph.get_concrete_function(tf.TensorSpec((None, *images.shape[1:]), tf.float32))
    for expected, actual in zip(contracts.arrays(model(images)), contracts.arrays(graph(images)), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", contracts.SMALLEST.values())
def test_another_process_gives_the_models_numbers(name, files, tmp_path):
    shape = contracts.image_shape(name)
    preprocessing = EvalPreprocessing(image_size=shape[:2], crop_ratio=0.875)
    model = tfvt.create_model(name, num_classes=3, input_shape=shape)
    exported = export_saved_model(model, tmp_path / "served", ClassificationServing(NAMES, preprocessing))
    assert [p.name for p in tmp_path.iterdir()] == ["served"]  # no temporary folder is left
    batches = [[str(p) for p in files], [str(files[1])]]
    command = [sys.executable, "-c", ASK, str(exported), json.dumps(batches)]
    answers = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    images = np.stack([decode_and_center_crop(tf.constant(p.read_bytes()), preprocessing) for p in files])
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(model(images)))
    labels, names, probabilities = answers[0]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert labels == expected.argmax(axis=-1).tolist()
    assert names == [NAMES[label] for label in labels]
    np.testing.assert_allclose(answers[1][2][0], expected[1], atol=1e-6)


def small_model():
    return tfvt.create_model("resnet18", num_classes=3, input_shape=(64, 64, 3), width=8, depths=(1,))


def test_every_weight_is_written_once(files, tmp_path):
    model = tfvt.create_model("resnet18", num_classes=3, input_shape=(64, 64, 3), depths=(1, 1, 1, 1))
    path = export_saved_model(model, tmp_path / "served", SERVING)
    weights = sum(weight.numpy().nbytes for weight in model.variables)
    assert weights > 15e6
    assert weights < sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 1.2 * weights


@pytest.fixture(scope="module")
def model():
    """Trained, as far as its norms go."""
    model, rng = small_model(), np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "beta", "moving_mean", "moving_variance")):
            weight.assign(rng.uniform(0.3, 2, weight.shape))
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export_saved_model(model, tmp_path_factory.mktemp("export") / "served", SERVING)


@pytest.fixture(scope="module")
def signatures(folder):
    return tf.saved_model.load(folder).signatures


def test_the_signatures_are_those_of_the_page(signatures):
    answer = {"label": (tf.int64, [None]), "name": (tf.string, [None]), "probabilities": (tf.float32, [None, 3])}
    files = {"image": tf.TensorSpec((None,), tf.string, name="image")}
    pixels = {"image": tf.TensorSpec((None, None, None, 3), tf.uint8, name="image")}
    assert {
        name: (
            signature.structured_input_signature[1],
            {key: (spec.dtype, spec.shape.as_list()) for key, spec in signature.structured_outputs.items()},
        )
        for name, signature in signatures.items()
    } == {
        "serving_default": (files, answer),
        "image": (pixels, answer),
        "features": (files, {"features": (tf.float32, [None, 8])}),
        "class_names": ({}, {"class_names": (tf.string, [3])}),
    }


def test_decoded_images_have_the_answer_of_their_files(signatures):
    sent = [encoded("RGB", (80, 60), "PNG", seed) for seed in range(3)]
    expected = signatures["serving_default"](image=tf.constant(sent))
    images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in sent])
    for name, value in signatures["image"](image=tf.constant(images)).items():
        np.testing.assert_array_equal(value, expected[name])
    for wrong in (images[:0], images[:, :0]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="the request holds no image"):
            signatures["image"](image=tf.constant(wrong))


def test_the_client_reads_features_and_class_names(model, folder, signatures):
    file = encoded("RGB", (80, 60), "PNG", 0)
    pixels = decode_and_center_crop(tf.constant(file), PREPROCESSING)[None]
    expected = keras.Model(model.input, model.get_layer("pool").output)(pixels)
    features = signatures["features"](image=tf.constant([file]))["features"]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    expected = keras.ops.softmax(model(pixels))  # of the model whose norms are not folded
    np.testing.assert_allclose(
        signatures["serving_default"](image=tf.constant([file]))["probabilities"], expected, atol=1e-5
    )
    assert [name.decode() for name in signatures["class_names"]()["class_names"].numpy()] == list(NAMES)
    assert json.loads((folder / "assets.extra" / "class_names.json").read_text("utf-8")) == list(NAMES)


def test_the_written_model_has_no_norms(folder):
    variables = [name for name, _ in tf.train.list_variables(str(folder / "variables" / "variables"))]
    graph = tf.saved_model.load(folder).signatures["serving_default"].graph
    functions = graph.as_graph_def().library.function
    operations = {node.op for node in graph.as_graph_def().node} | {n.op for f in functions for n in f.node_def}
    assert "Conv2D" in operations
    assert not {op for op in operations if "BatchNorm" in op}
    assert len([name for name in variables if name.startswith("weights/")]) == 8  # three kernels, a head; and biases


@pytest.mark.parametrize("value", range(1, 9))
def test_a_turned_photograph_has_the_answer_of_the_upright_one(value, signatures):
    coarse = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    photograph = photograph_on_its_side(Image.fromarray(coarse).resize((90, 60)), value)
    upright = as_seen(photograph)
    assert upright.size == ((60, 90) if value >= 5 else (90, 60))
    expected = signatures["image"](image=tf.constant(np.asarray(upright)[None]))["probabilities"]
    answer = signatures["serving_default"](image=tf.constant([photograph]))["probabilities"]
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    flat = signatures["image"](image=tf.constant(np.asarray(upright.transpose(Image.Transpose.ROTATE_180))[None]))
    assert np.abs(flat["probabilities"] - expected).max() > 1e-4  # the turn matters


def test_warm_up_requests_are_to_every_signature_that_takes_images(folder):
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    logs = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    for log, name in zip(logs, (b"serving_default", b"image", b"features"), strict=True):
        assert b"\x1a" + bytes([len(name)]) + name in log  # ModelSpec.signature_name


def test_warm_up_requests_stay_below_the_limit_of_pixels(tmp_path):
    write_warm_up(tmp_path / "requests", {"image": tf.uint8}, max_pixels=100)
    (log,) = (record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / "requests")))
    assert len(log) < 3 * 100 + 60


def test_preprocessing_is_the_runs_own(files, tmp_path):
    """Another crop ratio gives other probabilities: it is the export's argument that decides."""
    model = small_model()
    results = []
    for i, ratio in enumerate((0.5, 1.0)):
        preprocessing = EvalPreprocessing((64, 64), ratio)
        path = export_saved_model(model, tmp_path / str(i), ClassificationServing(NAMES, preprocessing))
        serve = tf.saved_model.load(path).signatures["serving_default"]
        results.append(serve(image=tf.constant([files[0].read_bytes()]))["probabilities"].numpy())
    assert np.abs(results[0] - results[1]).max() > 1e-5


def test_bad_calls_are_refused_and_leave_nothing(tmp_path):
    model = small_model()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(ValueError, match="taken exists and is not empty"):
        export_saved_model(model, tmp_path / "taken", SERVING)
    with pytest.raises(ValueError, match="2 class names for a model with 3 classes"):
        export_saved_model(model, tmp_path / "new", ClassificationServing(NAMES[:2], PREPROCESSING))
    with pytest.raises(ValueError, match=r"takes images of \(64, 64\), preprocessing.image_size is \(32, 32\)"):
        export_saved_model(model, tmp_path / "new", ClassificationServing(NAMES, EvalPreprocessing((32, 32))))
    with pytest.raises(ValueError, match="max_pixels=0: expected an integer of at least 1"):
        export_saved_model(model, tmp_path / "new", SERVING, max_pixels=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]
    assert (tmp_path / "taken" / "file").read_text() == "mine"


def test_what_is_no_image_is_an_error(tmp_path):
    model = small_model()
    path = export_saved_model(model, tmp_path / "served", SERVING)
    serve = tf.saved_model.load(path).signatures["serving_default"]
    whole = encoded("RGB", (40, 40), "JPEG", seed=0)
    for damaged in (b"text", b"", whole[: len(whole) // 2]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(image=tf.constant([damaged]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the request holds no image"):
        serve(image=tf.zeros((0,), tf.string))


def test_one_image_above_the_limit_fails_the_request_before_anything_is_decoded(tmp_path):
    path = export_saved_model(small_model(), tmp_path / "served", SERVING, max_pixels=60 * 80)
    signatures = tf.saved_model.load(path).signatures
    serve = signatures["serving_default"]
    whole, larger = encoded("RGB", (80, 60), "PNG", seed=0), encoded("RGB", (81, 60), "PNG", seed=0)
    assert serve(image=tf.constant([whole, whole]))["label"].shape == (2,)
    cut_off = whole[:100]  # which is not decodable either
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        serve(image=tf.constant([cut_off, larger]))
    assert "[image 1 of the request has 81 x 60 pixels: the limit is 4800]" in error.value.message
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"images of\] \[4860\] \[pixels: the limit is 4800"):
        signatures["image"](image=tf.zeros((1, 60, 81, 3), tf.uint8))


PEAK = """
import sys
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
small, large = (open(path, "rb").read() for path in sys.argv[2:])
serve(image=tf.constant([small]))
before = own_peak()
serve(image=tf.constant([large] * 8))
print(own_peak() - before)
"""


def test_images_at_the_limit_are_decoded_one_at_a_time(files, tmp_path):
    side = 4096
    path = export_saved_model(small_model(), tmp_path / "served", SERVING, max_pixels=side**2)
    Image.new("RGB", (side, side)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", OWN_PEAK + PEAK, str(path), str(files[1]), str(tmp_path / "large.png")]
    growth = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) * 2**30
    assert growth < 7 * side**2  # three bytes a pixel, and as many for the part that the crop shows


def test_what_a_killed_export_leaves_disturbs_no_later_one(tmp_path):
    leftover = tmp_path / ".served.a1b2c3" / "saved_model"
    leftover.mkdir(parents=True)
    (leftover / "saved_model.pb").write_text("half")
    served = export_saved_model(small_model(), tmp_path / "served", SERVING)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".served.a1b2c3", "served"]
    assert tf.saved_model.contains_saved_model(served)


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 100,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_link_stays_and_the_model_appears_where_it_leads(tmp_path):
    link = tmp_path / "served"
    link.symlink_to(tmp_path / "other_disk")
    export_saved_model(small_model(), link, SERVING)
    assert link.is_symlink()
    assert (tmp_path / "other_disk" / "saved_model.pb").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other_disk", "served"]


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, full_disk):
    with pytest.raises(WriteError, match="File too large") as raised:
        export_saved_model(small_model(), tmp_path / "served", SERVING)
    assert raised.value.filename == str(tmp_path / "served")
    assert list(tmp_path.iterdir()) == []
