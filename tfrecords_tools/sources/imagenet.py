"""ImageNet (ILSVRC 2012) as distributed: tars, read in place, or the folders that they unpack to."""

import dataclasses
import os
import re
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tfvt.data.records import UNLABELLED, counted
from tfvt.errors import UsageError
from tfvt.files import printable

from .folder import class_folders, class_images, same_classes
from .ground_truth import DEVKIT, SYNSET, SYNSET_LIST, GroundTruth, read_ground_truth
from .source import RecordSettings, Source, SourceImage, entries, some
from .tar import HINT, TarIndex

SHARDS = {"train": 1024, "validation": 128}
PARTS = {  # split -> the tar or folder that holds it
    "train": re.compile(r"ILSVRC2012_img_train\.tar|train"),
    "validation": re.compile(r"ILSVRC2012_img_val\.tar|val|validation"),
    "test": re.compile(r"ILSVRC2012_img_test\w*\.tar|test"),
}
VALIDATION_FILE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
LAYOUT = (
    "expected a folder with ILSVRC2012_img_train.tar or train/<synset>/, ILSVRC2012_img_val.tar or val/, and for the "
    "validation labels ILSVRC2012_devkit_t12.tar.gz"
)


def looks_like_imagenet(root: Path | str) -> bool:
    """Whether a folder holds one of ImageNet's tars, or its validation images outside class folders."""
    names = [entry.name for entry in entries(root)]
    if any(name.startswith("ILSVRC2012_img_") and name.endswith(".tar") for name in names):
        return True
    folders = [Path(root, name) for name in ("val", "validation") if Path(root, name).is_dir()]
    return any(VALIDATION_FILE.fullmatch(entry.name) for folder in folders for entry in entries(folder))


def imagenet(root: Path | str, ground_truth: Path | str | None = None) -> Source:
    """ImageNet below a folder: those of train, validation and test that exist there.

    Classes are the synsets in sorted order. Validation labels come from the development kit, in the folder or given,
    or from a list of synsets. PNG and CMYK files become RGB JPEGs. Test images are unlabelled.

    Raises:
        UsageError: the folder holds nothing of ImageNet, a tar is cut off, or classes and ground truth do not match.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise UsageError(f"{root} is not a folder; {LAYOUT}")
    parts, left_out = _parts(root)
    truth = _ground_truth(root, ground_truth, left_out)
    found = {}  # split -> synset -> images, without labels as yet
    if "train" in parts:
        found["train"] = _train(root, parts["train"], left_out)
    if "validation" in parts:
        found["validation"] = _validation(root, parts["validation"], truth, left_out)
    classes = {name: tuple(synsets) for name, synsets in found.items()}
    if truth and truth.texts:
        classes["the development kit"] = tuple(truth.texts)
    if not classes:
        raise UsageError(f"{root} holds test images only: put {DEVKIT}.tar.gz beside them, which names the classes")
    names = same_classes(root, classes)
    splits = {
        split: tuple(
            dataclasses.replace(image, label=label) for label, name in enumerate(names) for image in synsets[name]
        )
        for split, synsets in found.items()
    }
    if "test" in parts:
        splits["test"] = tuple(_files(root, parts["test"], left_out))
    texts = tuple(truth.texts.get(name, name) for name in names) if truth else names
    return Source(
        root=root,
        settings=RecordSettings(class_names=names, class_texts=texts, jpeg=True),
        splits=splits,
        left_out=tuple(left_out),
        shards=SHARDS,
    )


def _parts(root):
    """(split -> its tar or folder, names of everything else)."""
    parts, left_out = {}, []
    for entry in entries(root):
        split = next((split for split, pattern in PARTS.items() if pattern.fullmatch(entry.name)), None)
        if split in parts:
            raise UsageError(
                f"{root} has {split} images twice, {os.path.basename(parts[split])} and {entry.name}: "
                "move one of them away"
            )
        if split:
            parts[split] = entry.path
        else:
            left_out.append(printable(entry.name))
    if not parts:
        raise UsageError(f"{root} holds nothing of ImageNet; {LAYOUT}")
    return {split: parts[split] for split in PARTS if split in parts}, left_out


def _ground_truth(root, given, left_out) -> GroundTruth | None:
    if given:
        return read_ground_truth(given)
    for name in (f"{DEVKIT}.tar.gz", DEVKIT, SYNSET_LIST):
        if name in left_out:
            left_out.remove(name)
            return read_ground_truth(os.path.join(root, name))
    return None


def _train(root, path, left_out) -> dict[str, list[SourceImage]]:
    if os.path.isdir(path):
        folders = class_folders(root, path, left_out)
        strangers = [name for name in folders if not SYNSET.fullmatch(name)]
        if strangers:
            raise UsageError(f"{path} holds folders that are not synsets such as n01440764: {some(strangers)}")
        return {name: class_images(root, folder, UNLABELLED, left_out) for name, folder in folders.items()}
    return _train_tar(path, left_out)


def _train_tar(path, left_out):
    """Of a tar of tars."""
    synsets = {}
    with TarIndex(path) as tar:
        for member in _progress(tar.members(), f"listing {os.path.basename(path)}"):
            name, suffix = os.path.splitext(member.basename)
            if suffix != ".tar" or not SYNSET.fullmatch(name):
                raise UsageError(
                    f"{path} holds {printable(member.name)}, not only tars of one synset each, such as n01440764.tar"
                )
            if name in synsets:
                raise UsageError(f"{path} holds the tar of {name} twice")
            synsets[name] = _in_tar(path, tar.members(member))
            if not synsets[name]:
                raise UsageError(f"{member.name} in {path} holds no images; {HINT}")
        left_out += tar.left_out
    return synsets


def _validation(root, path, truth, left_out) -> dict[str, list[SourceImage]]:
    """From class folders, or from a tar or folder of files that get their labels from the ground truth only."""
    if os.path.isdir(path) and any(SYNSET.fullmatch(entry.name) for entry in entries(path)):
        return _train(root, path, left_out)
    if truth is None:
        raise UsageError(
            f"{path} has no labels in it: put {DEVKIT}.tar.gz or {SYNSET_LIST} into {root}, or name the "
            "ground truth with --ground-truth"
        )
    numbered = {}
    for image in _files(root, path, left_out):
        match = VALIDATION_FILE.fullmatch(os.path.basename(image.member or image.path))
        if not match:
            raise UsageError(f"{image.printable} is not named like a validation image (ILSVRC2012_val_00000001.JPEG)")
        if int(match[1]) in numbered:
            raise UsageError(f"{path} holds two files {match[0]}: keep the right one")
        numbered[int(match[1])] = image
    missing = sorted(set(range(1, len(truth.synsets) + 1)) - set(numbered))
    if missing or len(numbered) > len(truth.synsets):
        detail = f"; there is no ILSVRC2012_val_{missing[0]:08d}.JPEG" if missing else ""
        raise UsageError(
            f"{path} holds {counted(len(numbered), 'image')}, {truth.path} has the labels of "
            f"{len(truth.synsets):,}{detail}"
        )
    synsets = {}
    for number, image in sorted(numbered.items()):
        synsets.setdefault(truth.synsets[number - 1], []).append(image)
    return synsets


def _files(root, path, left_out) -> list[SourceImage]:
    """The images of a tar, or those that lie directly in a folder."""
    if os.path.isdir(path):
        return class_images(root, path, UNLABELLED, left_out)
    with TarIndex(path) as tar:
        images = _in_tar(path, tar.members())
        left_out += tar.left_out
    return images


def _in_tar(path, members):
    return [SourceImage(path, member.size, UNLABELLED, member.offset, member.name) for member in members]


def _progress(members, description):
    return track(members, description, console=Console(stderr=True), transient=True)
