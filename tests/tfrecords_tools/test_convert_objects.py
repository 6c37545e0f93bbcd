"""Conversion of images with boxes: killed, on processes, by Beam, from damaged files; read by others' code."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from box_files import annotation, coco_json, crowd, voc_xml, write_coco, write_voc
from hypothesis import given, settings
from image_files import contents, encode, picture, read_records, write_folder
from test_fuzz import damaged

from tfvt.data.detection import DetectionEvaluation, DetectionSamples, DetectionTraining
from tfvt.data.records import open_records
from tfvt.data.stream import StreamSettings, image_stream, train_stream
from tfvt.errors import UsageError
from tfvt.tfrecords_tools import workers
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.plan import plan_shards, source_digest
from tfvt.tfrecords_tools.sources import open_source


def many(number=12):
    """Objects of `number` images: some without any, one crowd, polygons."""
    numbers = [100 + 7 * index for index in range(number)]
    some = [annotation(10 * index, numbers[index], (18, 1, 90)[index % 3]) for index in range(0, number, 2)]
    return numbers, coco_json(numbers, [*some, crowd(5, numbers[3]), annotation(6, numbers[0], 90, (1, 1, 4, 4))])


@pytest.fixture
def coco(tmp_path):
    numbers, content = many()
    root = write_coco(tmp_path / "coco", content)
    for path in (root / "train2017").iterdir():
        path.unlink()
    for number in numbers:
        (root / "train2017" / f"{number:012d}.jpg").write_bytes(encode(picture(number)))
    return root


def test_a_killed_conversion_continues_to_the_same_files(coco, tmp_path):
    convert(coco, tmp_path / "expected", shards=4)
    command = [sys.executable, Path(__file__).with_name("interrupted.py"), coco, tmp_path / "records", 4, 1, 8]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert 0 < len(contents(tmp_path / "records")) < len(contents(tmp_path / "expected"))
    convert(coco, tmp_path / "records", shards=4)
    assert contents(tmp_path / "records") == contents(tmp_path / "expected")


def test_processes_write_the_same_files(coco, tmp_path, monkeypatch):
    convert(coco, tmp_path / "threads", shards=4, workers=1)
    monkeypatch.setattr(workers, "IMAGES_WORTH_PROCESSES", 0)
    convert(coco, tmp_path / "processes", shards=4, workers=2)
    assert contents(tmp_path / "processes") == contents(tmp_path / "threads")


@pytest.mark.parity
def test_a_beam_pipeline_writes_the_same_files(coco, tmp_path):
    write_voc(tmp_path / "voc")
    for name in ("coco", "voc"):
        convert(tmp_path / name, tmp_path / f"{name} local", shards=3)
        convert(tmp_path / name, tmp_path / f"{name} beam", shards=3, beam=["--runner=FnApiRunner"])
        assert contents(tmp_path / f"{name} beam") == contents(tmp_path / f"{name} local")


@pytest.mark.parity
def test_official_models_read_our_objects(coco, tmp_path):
    """Their decoder of COCO's records; labels count from 1 there, and masks above a threshold are 1."""
    from official.vision.dataloaders.tf_example_decoder import TfExampleDecoder

    convert(coco, tmp_path / "records", label_offset=1, shards=1)
    decoder = TfExampleDecoder(include_mask=True, mask_binarize_threshold=0.5)
    found = {}
    for serialized in tf.data.TFRecordDataset(str(tmp_path / "records" / "train-00000-of-00001")):
        one = decoder.decode(serialized)
        found[int(one["source_id"])] = {name: value.numpy() for name, value in one.items()}
    one = found[100]
    np.testing.assert_allclose(one["groundtruth_boxes"] * (16, 24, 16, 24), [[3, 2, 9, 12], [1, 1, 5, 5]], atol=1e-5)
    assert one["groundtruth_classes"].tolist() == [2, 3]
    assert one["groundtruth_area"].tolist() == [60, 60]
    assert one["groundtruth_is_crowd"].tolist() == [False, False]
    mask = np.zeros((16, 24))
    mask[3:9, 2:12] = 1
    np.testing.assert_array_equal(one["groundtruth_instance_masks"][0], mask)
    assert found[121]["groundtruth_is_crowd"].tolist() == [True]
    assert found[107]["groundtruth_boxes"].shape == (0, 4)


def test_our_samples_read_our_objects(coco, tmp_path):
    """From COCO's numbers to boxes in pixels, for training and for evaluation, labels from 1 in between."""
    convert(coco, tmp_path / "records", label_offset=1)
    records = open_records(tmp_path / "records", "train")
    samples = DetectionSamples.of(records, DetectionEvaluation(), masks=True)
    found = {one["source_id"][0]: one for one in image_stream(records, samples, StreamSettings(1)).as_numpy_iterator()}
    assert sorted(map(int, found)) == many()[0]
    np.testing.assert_allclose(found[b"100"]["boxes"][0], [[3, 2, 9, 12], [1, 1, 5, 5]], atol=1e-5)
    assert found[b"100"]["labels"][0].tolist() == [1, 2]
    assert found[b"100"]["area"][0].tolist() == [60, 60]
    assert found[b"121"]["crowd"][0].tolist() == [True]
    assert found[b"107"]["boxes"].shape == (1, 0, 4)
    mask = tf.io.decode_png(found[b"100"]["masks"][0][0]).numpy()[..., 0] > 0
    assert np.argwhere(mask).min(0).tolist() == [3, 2]
    assert mask.sum() == 60
    training = DetectionTraining((16, 24), (16,), 24, flip=False, max_boxes=4, keep_empty=True)
    stream = train_stream(records, DetectionSamples.of(records, training, masks=True), StreamSettings(12))
    (batch,) = stream.take(1).as_numpy_iterator()
    order = {number: place for place, number in enumerate(batch["id"].tolist())}
    stored = [record["image/source_id"] for record in read_records(tmp_path / "records", "train")]
    shown = batch["boxes"][order[stored.index(b"100")]]
    np.testing.assert_allclose(shown, [[3, 2, 9, 12], [1, 1, 5, 5], [0] * 4, [0] * 4], atol=1e-4)


def test_lists_of_a_file_may_stand_in_any_order(coco, tmp_path):
    convert(coco, tmp_path / "records", shards=1)
    path = coco / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items())), indent=1))
    convert(coco, tmp_path / "reversed", shards=1)
    names = "train-00000-of-00001", "validation-00000-of-00001"
    found = [[contents(tmp_path / folder)[name] for name in names] for folder in ("records", "reversed")]
    assert found[0] == found[1]


def test_sources_without_boxes_keep_their_digests(tmp_path):
    """So conversions that an older version began continue, and runs on its records too. The digest is its own."""
    root = write_folder(tmp_path / "images", counts=(2, 1), splits=("train",))
    for index, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(b"x" * (index + 1))  # sizes count, and encoders of JPEG differ in them
    source = open_source(root)
    assert repr(source.settings) == (
        "RecordSettings(class_names=('class0', 'class1'), class_texts=('class0', 'class1'), jpeg=False, mask_ids=None, "
        "tfds=None)"
    )
    assert source_digest(source, plan_shards(source, 1), 0) == (
        "421fa91e0501b2de5015c4f8fed174b37d616c22fa0bf6c89897eea1b6e49d72"
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """COCO's, VOC's and a table's files of annotations, and what they are."""
    folder = tmp_path_factory.mktemp("fuzzed")
    write_coco(folder / "coco")
    xml = voc_xml(("dog", 1, 1, 24, 16), ("cat", 3, 4, 10.5, 8, 1))
    write_voc(folder / "voc", {"a": xml, "b": voc_xml(("cat", 1, 1, 5, 5))}, {"train": "ab"})
    lines = ["path,xmin,ymin,xmax,ymax,label", "0.jpg,0,0,24,16,dog", "0.jpg,2,2,9,9.5,cat", "1.jpg,,,,,"]
    (folder / "table").mkdir()
    (folder / "table" / "boxes.csv").write_text("\n".join(lines))
    for index in range(2):
        (folder / "table" / f"{index}.jpg").write_bytes(encode(picture(index)))
    files = {
        "coco": (folder / "coco", folder / "coco" / "annotations" / "instances_train2017.json"),
        "voc": (folder / "voc", folder / "voc" / "Annotations" / "a.xml"),
        "boxes": (folder / "table" / "boxes.csv",) * 2,
    }
    return {kind: (location, file, file.read_bytes()) for kind, (location, file) in files.items()}


@pytest.mark.parametrize("kind", ["coco", "voc", "boxes"])
def test_damaged_annotations_are_an_error_or_rejects(sound, tmp_path_factory, kind):
    location, file, content = sound[kind]

    @settings(max_examples=60, deadline=None)
    @given(spoilt=damaged(content))
    def check(spoilt):
        file.write_bytes(spoilt)
        output = tmp_path_factory.mktemp("records")
        with contextlib.suppress(UsageError):
            convert(open_source(location, format=kind), output, workers=1, max_rejects=100)

    try:
        check()
    finally:
        file.write_bytes(content)
