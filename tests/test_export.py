"""The SavedModel on image bytes, loaded in another process and compared with the model."""

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tests.contracts as contracts
import tfvt
from tfvt.data.images import EvalPreprocessing, decode_and_center_crop
from tfvt.export import export_saved_model

PREPROCESSING = EvalPreprocessing(image_size=(64, 64), crop_ratio=0.875)
NAMES = ("cat", "dog", "žába")


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
    exported = export_saved_model(model, tmp_path / "served", preprocessing=preprocessing, class_names=NAMES)
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


def test_preprocessing_is_the_runs_own(files, tmp_path):
    """Another crop ratio gives other probabilities: it is the export's argument that decides."""
    model = tfvt.create_model("resnet18", num_classes=3, input_shape=(64, 64, 3), width=8, depths=(1,))
    results = []
    for i, ratio in enumerate((0.5, 1.0)):
        preprocessing = EvalPreprocessing((64, 64), ratio)
        path = export_saved_model(model, tmp_path / str(i), preprocessing=preprocessing, class_names=NAMES)
        serve = tf.saved_model.load(path).signatures["serving_default"]
        results.append(serve(image=tf.constant([files[0].read_bytes()]))["probabilities"].numpy())
    assert np.abs(results[0] - results[1]).max() > 1e-5


def test_bad_calls_are_refused_and_leave_nothing(tmp_path):
    model = tfvt.create_model("resnet18", num_classes=3, input_shape=(64, 64, 3), width=8, depths=(1,))
    arguments = {"preprocessing": PREPROCESSING, "class_names": NAMES}
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(ValueError, match="taken exists and is not empty"):
        export_saved_model(model, tmp_path / "taken", **arguments)
    with pytest.raises(ValueError, match="2 class names for a model with 3 classes"):
        export_saved_model(model, tmp_path / "new", **arguments | {"class_names": NAMES[:2]})
    with pytest.raises(ValueError, match=r"takes images of \(64, 64\), preprocessing.image_size is \(32, 32\)"):
        export_saved_model(model, tmp_path / "new", **arguments | {"preprocessing": EvalPreprocessing((32, 32))})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]
    assert (tmp_path / "taken" / "file").read_text() == "mine"


def test_what_is_no_image_is_an_error(tmp_path):
    model = tfvt.create_model("resnet18", num_classes=3, input_shape=(64, 64, 3), width=8, depths=(1,))
    path = export_saved_model(model, tmp_path / "served", preprocessing=PREPROCESSING, class_names=NAMES)
    serve = tf.saved_model.load(path).signatures["serving_default"]
    whole = encoded("RGB", (40, 40), "JPEG", seed=0)
    for damaged in (b"text", b"", whole[: len(whole) // 2]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(image=tf.constant([damaged]))
