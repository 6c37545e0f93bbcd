"""`tfvt predict` and `tfvt export` of a segmentation run."""

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from limits import largest_file
from mask_model import MASK_NAMES
from mask_run import write_mask_run
from photographs import photograph_on_its_side
from PIL import Image
from sklearn.datasets import load_sample_image

from tfvt.data.mask_pictures import palette
from tfvt.trainers.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_mask_run(folder)
    return folder


def photograph(file_format, **options):
    file = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")[:150, :230]).save(file, file_format, **options)
    return file.getvalue()


def pixels(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


def test_predict_writes_label_map_and_overlay(run, tmp_path, capsys):
    turned = photograph_on_its_side(Image.open(io.BytesIO(photograph("PNG"))), 6)  # by a quarter
    files = {"china.png": photograph("PNG"), "turned.jpg": turned, "text.png": b"no image"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    output = tmp_path / "new" / "out"
    images = [str(tmp_path / name) for name in (*files, "none.png")]
    assert main(["predict", str(run), *images, "--output", str(output)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == images
    assert ": rejected: " in lines[2]
    assert lines[3].endswith("No such file or directory")
    assert sorted(path.name for path in output.iterdir()) == [
        "china.png",
        "china_overlay.png",
        "turned.png",
        "turned_overlay.png",
    ]
    assert pixels(output / "turned.png").shape == (230, 150)

    label_map = pixels(output / "china.png")
    assert label_map.shape == (150, 230)
    counts = np.bincount(label_map.reshape(-1), minlength=len(MASK_NAMES))
    largest = counts.argmax()
    assert np.count_nonzero(counts) > 1
    assert lines[0].startswith(f"{images[0]}: {MASK_NAMES[largest]} {counts[largest] / label_map.size:.1%}")
    overlay = pixels(output / "china_overlay.png")
    assert overlay.shape == (round(150 * 480 / 230), 480 + 320, 3)
    assert overlay[12 + 11, 480 + 12 + 8].tolist() == palette()[largest].tolist()

    assert main(["export", str(run), str(tmp_path / "served")]) == 0
    card = (tmp_path / "served" / "README.md").read_text()
    assert all(line in card.splitlines() for line in ("pipeline_tag: image-segmentation", "| Image size | any |"))
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    answer = served(image=tf.constant([files["china.png"]]))
    np.testing.assert_array_equal(answer["label_map"][0], label_map)


def test_without_a_folder_predict_prints_the_lines_alone(run, tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/gr\xfcn.png"
    with open(name, "wb") as file:
        file.write(photograph("PNG"))
    assert main(["predict", str(run), os.fsdecode(name)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{tmp_path}/gr\\xfcn.png: ")
    assert line.count("%") > 1
    assert len(list(tmp_path.iterdir())) == 1


def test_no_picture_replaces_another_or_an_image(run, tmp_path, fails):
    a, jpeg, b, overlay = images = [tmp_path / name for name in ("a.png", "a.jpg", "b.png", "b_overlay.png")]
    for path in images:
        path.write_bytes(photograph("PNG"))  # whatever the name says
    out = tmp_path / "out"
    words = "{}, a picture of {}, would replace {} or its picture; choose another folder"
    for images, folder, picture, image, other in (
        ([a, jpeg], out, out / "a.png", jpeg, a),
        ([b, overlay], out, out / "b_overlay.png", overlay, b),
        ([a], tmp_path, a, a, a),
    ):
        assert words.format(picture, image, other) in fails("predict", run, *images, "--output", folder)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: photograph("PNG") for path in (a, jpeg, b, overlay)
    }


def test_a_full_disk_is_one_line_and_leaves_no_half_picture(run, tmp_path, fails):
    image = tmp_path / "a.png"
    image.write_bytes(photograph("PNG"))
    with largest_file(200):
        line = fails("predict", run, image, "--output", tmp_path / "out")
    assert f"cannot write {tmp_path / 'out' / 'a.png'}" in line
    assert list((tmp_path / "out").iterdir()) == []
    assert "cannot write" not in fails("predict", run, image, "--output", image)  # a file, no folder


def test_classes_have_no_pictures(finished_run, tmp_path, fails):
    line = fails("predict", finished_run, tmp_path / "a.png", "--output", tmp_path / "out")
    assert line.endswith("--output: this run's model answers in one line and makes no pictures; leave --output out")
    assert list(tmp_path.iterdir()) == []
