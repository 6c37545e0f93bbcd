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
from PIL import Image

import tests.contracts as contracts
import tfvt
from tfvt.data.classification import ClassificationServing
from tfvt.data.images import EvalPreprocessing, decode_and_center_crop
from tfvt.export import export_saved_model

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


def test_the_signature_is_that_of_the_page(tmp_path):
    path = export_saved_model(small_model(), tmp_path / "served", SERVING)
    serve = tf.saved_model.load(path).signatures["serving_default"]
    assert serve.structured_input_signature[1] == {"image": tf.TensorSpec((None,), tf.string, name="image")}
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in serve.structured_outputs.items()} == {
        "label": (tf.int64, [None]),
        "name": (tf.string, [None]),
        "probabilities": (tf.float32, [None, 3]),
    }


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
    serve = tf.saved_model.load(path)
    serve = serve.signatures["serving_default"]
    whole, larger = encoded("RGB", (80, 60), "PNG", seed=0), encoded("RGB", (81, 60), "PNG", seed=0)
    assert serve(image=tf.constant([whole, whole]))["label"].shape == (2,)
    cut_off = whole[:100]  # which is not decodable either
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        serve(image=tf.constant([cut_off, larger]))
    assert "[image 1 of the request has 81 x 60 pixels: the limit is 4800]" in error.value.message


PEAK = """
import resource, sys
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
small, large = (open(path, "rb").read() for path in sys.argv[2:])
serve(image=tf.constant([small]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
serve(image=tf.constant([large] * 8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_images_at_the_limit_are_decoded_one_at_a_time(files, tmp_path):
    side = 4096
    path = export_saved_model(small_model(), tmp_path / "served", SERVING, max_pixels=side**2)
    Image.new("RGB", (side, side)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", PEAK, str(path), str(files[1]), str(tmp_path / "large.png")]
    growth = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) * 1024
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


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, full_disk):
    with pytest.raises(OSError, match=rf"^{tmp_path}/served cannot be written: .*File too large"):
        export_saved_model(small_model(), tmp_path / "served", SERVING)
    assert list(tmp_path.iterdir()) == []
