"""`tfvt predict` and `tfvt export` of a detection run."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from box_model import BOX_NAMES
from box_run import CATEGORY_IDS, write_box_run
from limits import largest_file
from photographs import photograph_on_its_side
from PIL import Image
from sklearn.datasets import load_sample_image

from tfvt.trainers.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_box_run(folder)
    return folder


def photograph(file_format, **options):
    file = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")[:150, :230]).save(file, file_format, **options)
    return file.getvalue()


def test_predict_writes_pictures_and_one_file_of_results(run, tmp_path, capsys):
    turned = photograph_on_its_side(Image.open(io.BytesIO(photograph("PNG"))), 6)  # by a quarter
    files = {
        "000000000139.png": photograph("PNG"),
        "turned.jpg": turned,
        "text.png": b"no image",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    output = tmp_path / "new" / "out"
    images = [str(tmp_path / name) for name in files]
    assert main(["predict", str(run), *images, "--output", str(output)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == images
    assert ": rejected: " in lines[2]
    assert sorted(path.name for path in output.iterdir()) == ["000000000139.png", "detections.json", "turned.png"]
    assert Image.open(io.BytesIO((output / "turned.png").read_bytes())).size == (313, 480)
    results = json.loads((output / "detections.json").read_text())
    assert {result["image_id"] for result in results} == {139, "turned"}
    of_first = [result for result in results if result["image_id"] == 139]
    best = of_first[0]
    assert lines[0].startswith(f"{images[0]}: {BOX_NAMES[CATEGORY_IDS.index(best['category_id'])]} {best['score']:.0%}")

    assert main(["export", str(run), str(tmp_path / "served")]) == 0
    card = (tmp_path / "served" / "README.md").read_text()
    assert all(line in card.splitlines() for line in ("pipeline_tag: object-detection", "| Image size | any |"))
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    answer = served(image=tf.constant([files["000000000139.png"]]))
    count = int((answer["labels"] >= 0).numpy().sum())
    assert count == len(of_first) > 1
    y1, x1, y2, x2 = answer["boxes"][0, :count].numpy().T
    np.testing.assert_allclose([r["bbox"] for r in of_first], np.stack([x1, y1, x2 - x1, y2 - y1], 1), rtol=1e-6)
    np.testing.assert_allclose([r["score"] for r in of_first], answer["scores"][0, :count], rtol=1e-6)
    labels = answer["labels"][0, :count].numpy()
    assert [r["category_id"] for r in of_first] == [CATEGORY_IDS[label] for label in labels]


def test_without_a_folder_predict_prints_the_lines_alone(run, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(photograph("PNG"))
    assert main(["predict", str(run), str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/a.png: ")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_full_disk_leaves_no_half_file(run, tmp_path, fails):
    (tmp_path / "a.png").write_bytes(photograph("PNG"))
    with largest_file(200):
        line = fails("predict", run, tmp_path / "a.png", "--output", tmp_path / "out")
    assert f"cannot write {tmp_path / 'out' / 'a.png'}" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_two_images_of_one_name_are_refused(run, tmp_path, fails):
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(photograph("PNG"))
    line = fails("predict", run, tmp_path / "a.png", tmp_path / "a.jpg", "--output", tmp_path / "out")
    assert f"would replace {tmp_path / 'a.png'} or its picture" in line
    assert not (tmp_path / "out").exists()
