"""Others' readers on our shards, and our readers on others' shards, run live."""

import io

import numpy as np
import pytest
import tensorflow as tf
from foreign_shards import CLASSES, imagenet_to_gcs_features, serialize, slim_features, write_shards
from image_files import encode, picture, write_folder
from PIL import Image

from tfvt.data import (
    ClassificationSamples,
    EvalPreprocessing,
    StreamSettings,
    TrainPreprocessing,
    eval_stream,
    open_records,
    train_stream,
)
from tfvt.data.images import decode_and_center_crop
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.index import index

SIZE = EvalPreprocessing((32, 32))


@pytest.mark.parity
@pytest.mark.parametrize("label_offset", [0, 1])
def test_official_models_read_our_shards(tmp_path, label_offset):
    """Labels of either convention, and JPEG, PNG, grey and transparent images to the byte and to the pixel."""
    from official.vision.dataloaders.classification_input import Decoder

    source = write_folder(tmp_path / "images", counts=(3, 4), splits=("train",))
    extra = {
        "grey.jpg": encode(picture(90)[..., 0]),
        "color.png": encode(picture(91), "PNG"),
        "transparent.png": encode(np.dstack([picture(92), picture(93)[..., 0]]), "PNG"),
    }
    for name, content in extra.items():
        (source / "train" / "class0" / name).write_bytes(content)
    convert(source, tmp_path / "records", label_offset=label_offset, shards=2)

    expected = {}
    for label in (0, 1):
        for path in (source / "train" / f"class{label}").iterdir():
            content = path.read_bytes()
            pixels = np.asarray(Image.open(io.BytesIO(content)))
            expected[content] = (label + label_offset, pixels)
    assert len(expected) == 10

    decoder = Decoder()
    paths = sorted(str(path) for path in (tmp_path / "records").glob("train-*"))
    decoded = [decoder.decode(serialized) for serialized in tf.data.TFRecordDataset(paths)]
    assert {features["image/encoded"].numpy() for features in decoded} == set(expected)
    for features in decoded:
        label, pixels = expected[features["image/encoded"].numpy()]
        assert features["image/class/label"].numpy() == label
        image = tf.io.decode_image(features["image/encoded"]).numpy()
        np.testing.assert_allclose(image.reshape(pixels.shape).astype(int), pixels, atol=4)  # another inverse DCT


@pytest.mark.parity
def test_official_models_train_on_our_shards(tmp_path):
    """Their parser continues to decode, crop and normalise; labels are those of a 1001-way head."""
    from official.vision.dataloaders.classification_input import Decoder, Parser

    convert(write_folder(tmp_path / "images", splits=("train",)), tmp_path / "records", label_offset=1, shards=1)
    dataset = tf.data.TFRecordDataset(str(tmp_path / "records" / "train-00000-of-00001"))
    parse = Parser(output_size=[32, 32], num_classes=1001).parse_fn(is_training=False)
    batch = dataset.map(Decoder().decode).map(parse).batch(7).get_single_element()
    images, labels = batch
    assert (images.shape, sorted(labels.numpy().tolist())) == ((7, 32, 32, 3), [1, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize(("features", "folders"), [(slim_features, False), (imagenet_to_gcs_features, True)])
def test_we_read_their_shards(tmp_path, features, folders):
    for split, numbers in (("train", range(9)), ("validation", range(9, 15))):
        examples = [serialize(features(number)) for number in numbers]
        write_shards(tmp_path / split if folders else tmp_path, split, examples, shards=3)
    index(tmp_path, label_offset=1)

    records = open_records(tmp_path, "validation")
    assert records.class_names == tuple(synset for synset, _ in CLASSES)
    (batch,) = eval_stream(records, ClassificationSamples.of(records, SIZE), StreamSettings(batch_size=6))
    assert batch["weight"].numpy().tolist() == [1.0] * 6
    assert batch["label"].numpy().tolist() == [number % 4 for number in range(9, 15)]
    for image, number in zip(batch["image"].numpy(), range(9, 15), strict=True):
        np.testing.assert_array_equal(image, decode_and_center_crop(encode(picture(number, 40, 50)), SIZE))

    records = open_records(tmp_path, "train")
    samples = ClassificationSamples.of(records, TrainPreprocessing((16, 16)))
    stream = train_stream(records, samples, StreamSettings(batch_size=3))
    batches = list(stream.take(3))
    labels = {int(i): int(label) for batch in batches for i, label in zip(batch["id"], batch["label"], strict=True)}
    assert labels == {number: number % 4 for number in range(9)}
