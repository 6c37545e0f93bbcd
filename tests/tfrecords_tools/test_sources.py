"""Which folders are sources, and what is said of those that are not."""

import errno
import os
import shutil

import pytest
from image_files import encode, picture, write_folder

from tfvt.errors import UsageError
from tfvt.tfrecords_tools.sources import image_folder


def test_folder_is_listed(tmp_path):
    root = write_folder(tmp_path, counts=(2, 1), splits=("train", "val"))
    (root / "train" / "class0" / ".hidden").write_text("")
    (root / "test").mkdir()
    source = image_folder(root)
    assert source.settings.class_names == ("class0", "class1")
    assert list(source.splits) == ["train", "validation"]
    train = [(image.path, image.label) for image in source.splits["train"]]
    assert train == [
        (str(root / "train" / name), label)
        for name, label in (("class0/0.jpg", 0), ("class0/1.jpg", 0), ("class1/0.jpg", 1))
    ]
    assert source.splits["train"][0].size == (root / "train/class0/0.jpg").stat().st_size
    assert source.left_out == ("test", "train/class0/.hidden")


def remove(name):
    return lambda root: shutil.rmtree(root / name)


def fill(name):
    def write(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(picture(0)))

    return write


def empty_class(root):
    for path in (root / "val" / "class1").iterdir():
        path.unlink()


def one_class(root):
    shutil.rmtree(root / "train" / "class1")
    shutil.rmtree(root / "val" / "class1")


def no_split(root):
    (root / "train").rename(root / "cats")
    (root / "val").rename(root / "dogs")


def empty(root):
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty, r"images is empty; expected INPUT/<split>/<class>/<image file>"),
        (remove(""), r"images is not a folder; expected INPUT"),
        (no_split, r"images has no split folder, it holds cats, dogs; expected INPUT"),
        (one_class, r"train of .*images has one class only \(class0\): classification needs at least two"),
        (empty_class, r"class folder .*val/class1 holds no images: fill it, or remove it"),
        (fill("train/stray.jpg"), r"train holds files outside class folders: stray.jpg; move each"),
        (remove("val/class1"), r"splits of .*images differ in their classes: train has class1, val does not"),
        (remove("train/class0"), r"differ in their classes: val has class0, train does not"),
        (fill("validation/class0/0.jpg"), r"has both val and validation"),
        (fill("train/class0/deeper/0.jpg"), r"class folder .*class0 holds a folder, deeper: images lie directly"),
    ],
)
def test_other_folders_are_refused(tmp_path, spoil, message):
    root = write_folder(tmp_path / "images")
    spoil(root)
    with pytest.raises(UsageError, match=message):
        image_folder(root)


def test_folders_that_may_not_be_listed_are_named(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "images")
    scandir = os.scandir

    def refuse(path):  # root may list everything: the system's answer to others is given by hand
        if path == str(root / "train" / "class1"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"images/train/class1 cannot be listed: Permission denied"):
        image_folder(root)


def test_class_names_that_are_one_text_are_refused(tmp_path):
    """A byte that is not UTF-8, and its spelling: as text both are the same, and one class would be lost."""
    for name in (b"\xff", rb"\xff"):
        folder = tmp_path / "train" / os.fsdecode(name)
        folder.mkdir(parents=True)
        (folder / "0.jpg").write_bytes(encode(picture(0)))
    with pytest.raises(UsageError, match=r"two class folders of .*train have the same name as text, \\xff"):
        image_folder(tmp_path)


def test_empty_split_is_refused(tmp_path):
    root = write_folder(tmp_path / "images", splits=("train",))
    (root / "val").mkdir()
    with pytest.raises(UsageError, match="val is empty"):
        image_folder(root)
