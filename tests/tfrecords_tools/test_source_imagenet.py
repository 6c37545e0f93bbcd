"""ImageNet as it is distributed: what is found in tars and folders, and what is said of those that are damaged."""

import dataclasses
import errno
import gzip
import os
import re
import shutil

import pytest
from image_files import encode, picture, read_records
from imagenet_files import (
    SYNSETS,
    VALIDATION_LABELS,
    devkit_files,
    tar,
    train_images,
    validation_images,
    write_devkit,
    write_folders,
    write_tars,
)

from tfvt.errors import UsageError
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.images import read_file
from tfvt.tfrecords_tools.sources import open_source
from tfvt.tfrecords_tools.sources.ground_truth import read_ground_truth

NAMES = tuple(SYNSETS)


def listed(source, split):
    """(file name, label, bytes) of a split."""
    return [
        (image.filename.decode(), image.label, read_file(image.path, image.offset, image.size))
        for image in source.splits[split]
    ]


@pytest.mark.parametrize("write", [write_tars, write_folders])
def test_tars_and_folders_hold_the_same(tmp_path, write):
    source = open_source(write(tmp_path))
    assert list(source.splits) == ["train", "validation", "test"]
    assert source.settings.class_names == NAMES
    assert source.settings.class_texts == tuple(SYNSETS.values())
    assert source.settings.jpeg
    assert source.shards == {"train": 1024, "validation": 128}
    assert source.left_out == ()
    images = train_images()
    assert listed(source, "train") == [
        (name, label, content) for label, synset in enumerate(NAMES) for name, content in images[synset].items()
    ]
    expected = zip(validation_images().items(), VALIDATION_LABELS, strict=True)
    assert sorted(listed(source, "validation")) == [(name, label, content) for (name, content), label in expected]
    assert [(name, label) for name, label, _ in listed(source, "test")] == [
        ("ILSVRC2012_test_00000001.JPEG", -1),
        ("ILSVRC2012_test_00000002.JPEG", -1),
    ]


def test_records(tmp_path):
    """From the tars to shards: labels, names, and JPEGs of what is none."""
    convert(write_tars(tmp_path / "imagenet"), tmp_path / "records", label_offset=1)
    shards = sorted(path.name for path in (tmp_path / "records").glob("*-of-*"))
    assert [shards[0], shards[2], shards[-1]] == [
        "test-00000-of-00001",
        "train-00001-of-00012",
        "validation-00005-of-00006",
    ]
    originals = {name: content for files in train_images().values() for name, content in files.items()}
    train = {record["image/filename"].decode(): record for record in read_records(tmp_path / "records", "train")}
    assert set(train) == set(originals)
    for name, record in train.items():
        assert record["image/class/synset"].decode() == name[:9]
        assert record["image/class/text"].decode() == SYNSETS[name[:9]]
        assert record["image/class/label"] == NAMES.index(name[:9]) + 1
        assert (record["image/format"], record["image/channels"]) == (b"JPEG", 3)
        if name not in ("n01484850_2.JPEG", "n01443537_1.JPEG"):
            assert record["image/encoded"] == originals[name]
    found = {r["image/filename"]: r["image/class/label"] for r in read_records(tmp_path / "records", "validation")}
    assert found == {
        name.encode(): label + 1 for name, label in zip(validation_images(), VALIDATION_LABELS, strict=True)
    }
    for record in read_records(tmp_path / "records", "test"):
        assert (record["image/class/label"], record["image/class/synset"], record["image/class/text"]) == (-1, b"", b"")


def test_validation_in_class_folders_needs_no_ground_truth(tmp_path):
    root = write_folders(tmp_path)
    shutil.rmtree(root / "ILSVRC2012_devkit_t12")
    for (name, content), label in zip(validation_images().items(), VALIDATION_LABELS, strict=True):
        (root / "val" / name).unlink()
        (root / "val" / NAMES[label]).mkdir(exist_ok=True)
        (root / "val" / NAMES[label] / name).write_bytes(content)
    source = open_source(root, "imagenet")
    assert source.settings.class_texts == NAMES
    assert [image.label for image in source.splits["validation"]] == sorted(VALIDATION_LABELS)
    assert open_source(root).shards == {}, "a folder of class folders is no ImageNet unless it is said to be"


def write_synset_list(path, labels=VALIDATION_LABELS):
    path.write_text("".join(f"{NAMES[label]}\n" for label in labels))
    return path


def test_list_of_synsets(tmp_path):
    with_devkit = open_source(write_tars(tmp_path / "imagenet"))
    (tmp_path / "imagenet" / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    given = write_synset_list(tmp_path / "synsets.txt")
    source = open_source(tmp_path / "imagenet", ground_truth=given)
    assert source.splits == with_devkit.splits
    assert source.settings.class_texts == NAMES
    write_synset_list(tmp_path / "imagenet" / "imagenet_2012_validation_synset_labels.txt")
    assert open_source(tmp_path / "imagenet") == dataclasses.replace(source)


def test_packed_and_unpacked_kits_are_the_same(tmp_path):
    write_devkit(tmp_path)
    for name, content in devkit_files().items():
        (tmp_path / "kit" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kit" / name).write_bytes(content)
    packed, unpacked = read_ground_truth(tmp_path / "ILSVRC2012_devkit_t12.tar.gz"), read_ground_truth(tmp_path / "kit")
    assert packed.synsets == unpacked.synsets == tuple(NAMES[label] for label in VALIDATION_LABELS)
    assert packed.texts == unpacked.texts == SYNSETS, "without the inner node of the hierarchy"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"2\n3\n1\n", "holds plain numbers, which may count ILSVRC ids or sorted synsets: give the whole development"),
        (b"n01440764\ntench\n", r"line 2 of .*truth.txt is 'tench', not a synset such as n01440764"),
        (b"", r"truth.txt is empty"),
        (gzip.compress(tar([("data/meta.mat", b"")])), "holds no data/ILSVRC2012_validation_ground_truth.txt"),
        (gzip.compress(tar(devkit_files().items()))[:300], r"ground truth .* is damaged .*download it again"),
        (tar({**devkit_files(), "data/meta.mat": b"x" * 200}.items()), "meta.mat of .* is damaged or of another form"),
        (
            tar({**devkit_files(), "data/ILSVRC2012_validation_ground_truth.txt": b"1\n4\n9\n"}.items()),
            "has ids that data/meta.mat does not have: 4, 9",
        ),
        (
            tar({**devkit_files(), "data/ILSVRC2012_validation_ground_truth.txt": b"one"}.items()),
            "must hold only numbers",
        ),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else None,  # packed files hold the time
)
def test_other_ground_truth_is_refused(tmp_path, content, message):
    (tmp_path / "truth.txt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_ground_truth(tmp_path / "truth.txt")


def test_missing_ground_truth_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"ground truth .*nowhere cannot be read: No such file"):
        read_ground_truth(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"ground truth .*meta.mat cannot be read: No such file"):
        read_ground_truth(tmp_path / "empty")


def test_without_scipy_the_kit_is_refused(tmp_path, monkeypatch):
    write_devkit(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(UsageError, match=r"pip install 'tfvt\[imagenet\]'; or give a list of synsets"):
        read_ground_truth(tmp_path / "ILSVRC2012_devkit_t12.tar.gz")


def replace_tar(name, edit):
    def spoil(root):
        path = root / name
        path.write_bytes(edit(path.read_bytes()))

    return spoil


def remove(*names):
    def spoil(root):
        for name in names:
            (root / name).unlink()

    return spoil


def write(name, content):
    return lambda root: (root / name).write_bytes(content)


CUT_OFF = r"cut off.*: download or copy it again, and compare its checksum"
TRAIN, VALIDATION, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
EXTRA = [("n01440764.tar", tar([("a.JPEG", b"a")]))]


def train_tar(extra=(), skip=()):
    tars = [(f"{name}.tar", tar(files.items())) for name, files in train_images().items() if name not in skip]
    return tar([*tars, *extra])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (replace_tar(TRAIN, lambda data: data[: len(data) // 2]), rf"ILSVRC2012_img_train.tar.*{CUT_OFF}"),
        (replace_tar(TRAIN, lambda data: data[: 512 * 3]), rf"ILSVRC2012_img_train.tar.*{CUT_OFF}"),
        (replace_tar(TRAIN, lambda data: b""), r"ILSVRC2012_img_train.tar is cut off or not a tar \(empty file\)"),
        (replace_tar(VALIDATION, lambda data: data[: len(data) // 2]), rf"ILSVRC2012_img_val.tar is {CUT_OFF}"),
        (replace_tar(VALIDATION, gzip.compress), "ILSVRC2012_img_val.tar is compressed: .* gunzip it first"),
        (replace_tar(VALIDATION, lambda data: b"\x01" * 2000), "ILSVRC2012_img_val.tar is cut off or not a tar"),
        (
            write(TRAIN, train_tar([("n01440764.tar", b"x" * 3000)], skip=["n01440764"])),
            "train.tar:n01440764.tar is cut",
        ),
        (
            write(TRAIN, train_tar([("readme.txt", b"")])),
            "train.tar holds readme.txt, not only tars of one synset each",
        ),
        (write(TRAIN, train_tar([("tench.tar", b"")])), "train.tar holds tench.tar, not only tars of one synset each"),
        (write(TRAIN, train_tar(EXTRA)), "train.tar holds n01440764.tar twice"),
        (write(TRAIN, train_tar([("other/n01440764.tar", EXTRA[0][1])])), "train.tar holds the tar of n01440764 twice"),
        (
            write(TRAIN, train_tar([("n01440764.tar", tar([("a", b"1"), ("a", b"2")]))], skip=["n01440764"])),
            "train.tar:n01440764.tar holds a twice, and it is unclear which one is right",
        ),
        (write(TRAIN, train_tar(skip=["n01440764"])), "validation has n01440764, train does not"),
        (write(TRAIN, train_tar([("n01440764.tar", tar([]))], skip=["n01440764"])), "n01440764.tar .* holds no images"),
        (write(TRAIN, train_tar([("n09999999.tar", tar([("a", b"a")]))])), "train has n09999999, validation does not"),
        (remove(KIT), rf"img_val.tar has no labels in it: put {KIT} or imagenet_2012_validation_synset_labels"),
        (remove(TRAIN, VALIDATION, KIT), "holds test images only: put ILSVRC2012_devkit_t12.tar.gz beside them"),
        (lambda root: (root / "val").mkdir(), r"has validation images twice, ILSVRC2012_img_val.tar and val: move one"),
        (
            write(VALIDATION, tar([*validation_images().items()][:-1])),
            r"holds 5 images, .* has the labels of 6; there is no ILSVRC2012_val_00000006.JPEG",
        ),
        (
            write(VALIDATION, tar([*validation_images().items(), ("ILSVRC2012_val_00000007.JPEG", b"a")])),
            r"img_val.tar holds 7 images, .* has the labels of 6$",
        ),
        (
            write(
                VALIDATION, tar([("a/ILSVRC2012_val_00000001.JPEG", b"a"), ("b/ILSVRC2012_val_00000001.JPEG", b"b")])
            ),
            "img_val.tar holds two files ILSVRC2012_val_00000001.JPEG",
        ),
        (
            write(VALIDATION, tar([("cat.jpg", b"a")])),
            "img_val.tar:cat.jpg is not named like a validation image .ILSVRC2012_val_00000001.JPEG",
        ),
    ],
)
def test_damaged_sets_are_refused(tmp_path, spoil, message):
    root = write_tars(tmp_path)
    spoil(root)
    with pytest.raises(UsageError, match=message):
        open_source(root, "imagenet")


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
def test_a_tar_cut_off_anywhere_is_refused(tmp_path, name):
    """Also between two members, where Python's own reader sees nothing wrong."""
    root = write_tars(tmp_path)
    content = (root / name).read_bytes()
    used = len(content.rstrip(b"\0"))  # zeros fill the end: of them only one block is needed
    for length in range(0, used, 512):
        (root / name).write_bytes(content[:length])
        with pytest.raises(UsageError, match=rf"{name}.* is cut off"):
            open_source(root, "imagenet")


def test_a_damaged_header_is_no_silent_end(tmp_path):
    root = write_tars(tmp_path)
    content = bytearray((root / VALIDATION).read_bytes())
    second = content.index(b"ILSVRC2012_val_00000002.JPEG")
    content[second] ^= 1
    (root / VALIDATION).write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(f"val.tar is cut off or damaged at byte {second:,}, after 1 file")):
        open_source(root, "imagenet")


def test_a_tar_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root = write_tars(tmp_path)
    opened = open

    def refuse(path, *arguments, **options):
        if str(path).endswith(VALIDATION):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UsageError, match=r"img_val.tar cannot be read: Permission denied"):
        open_source(root)


def test_names_that_are_not_utf8_pass_through_tars(tmp_path):
    root = write_tars(tmp_path / "imagenet")
    name = os.fsdecode(b"n01440764_\xff.JPEG")
    extra = [("n01440764.tar", tar([(name, encode(picture(3)))]))]
    (root / TRAIN).write_bytes(train_tar(extra, skip=["n01440764"]))
    convert(open_source(root), tmp_path / "records")
    names = {record["image/filename"] for record in read_records(tmp_path / "records", "train")}
    assert b"n01440764_\xff.JPEG" in names


def test_strangers_are_left_out_and_named(tmp_path):
    root = write_tars(tmp_path)
    (root / "ILSVRC2012_bbox_train_v2.tar.gz").write_bytes(b"")
    members = {**validation_images(), "._ILSVRC2012_val_00000001.JPEG": b"what macOS adds"}
    (root / VALIDATION).write_bytes(tar(members.items()))
    assert open_source(root).left_out == (
        "ILSVRC2012_bbox_train_v2.tar.gz",
        "ILSVRC2012_img_val.tar:._ILSVRC2012_val_00000001.JPEG",
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["other/file"], "holds nothing of ImageNet; expected a folder with ILSVRC2012_img_train.tar"),
        (["train/cat/1.jpg", "train/dog/1.jpg"], "holds folders that are not synsets such as n01440764: cat, dog"),
    ],
)
def test_other_folders_are_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(picture(0)))
    with pytest.raises(UsageError, match=message):
        open_source(tmp_path, "imagenet")


def test_a_tar_is_no_folder(tmp_path):
    write_tars(tmp_path)
    with pytest.raises(UsageError, match=r"train.tar is not a folder; expected a folder with ILSVRC2012_img_train"):
        open_source(tmp_path / TRAIN, "imagenet")
