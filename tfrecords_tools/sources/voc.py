"""Pascal VOC: an XML file of objects beside each image."""

import os
import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from tfvt.errors import UsageError
from tfvt.files import printable

from .boxed import boxed_source, twice
from .source import Source, by_stem, entries, is_folder, refuse

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
SPLITS = {"train": ("train", "trainval"), "validation": ("val", "validation"), "test": ("test",)}
WHOLE = re.compile(r"[1-9][0-9]{0,8}")
SIDES = ("xmin", "ymin", "xmax", "ymax")
EXPECTED = f"expected a folder such as VOC2012 with {IMAGES}, {ANNOTATIONS} and {LISTS}"


class _WrongFileError(Exception):
    """The text says what is wrong with it."""


def looks_like_voc(root: Path | str) -> bool:
    """Whether a folder, or one in it, has the folders of VOC."""
    return bool(_folders(root))


def voc(root: Path | str) -> Source:
    """The images of VOC's lists, with the boxes of their XML files.

    VOC counts pixels from 1 and includes both ends; records hold what a box covers: xmin - 1 to xmax. An object that is
    `difficult` counts as a crowd. Without lists every image is for training.

    Args:
        root: the folder of a year, or one that holds a single year.

    Raises:
        UsageError: the folder has another form, or XML files are damaged or wrong (the message has up to 20).
    """
    root = os.fspath(root)
    folders = _folders(root) if os.path.isdir(root) else []
    if len(folders) != 1:
        found = f"it has several: {', '.join(folders)}; give one of them" if folders else EXPECTED
        raise UsageError(f"{printable(root)} is not one year of Pascal VOC: {found}")
    (folder,) = folders
    left_out, problems, found = [], [], {}
    images, xmls = (by_stem(folder, name, left_out) for name in (IMAGES, ANNOTATIONS))
    splits = _splits(folder, images, xmls, left_out)
    listed = [stem for stems in splits.values() for stem in stems]
    problems += [f"{stem} is in two lists, or twice in one" for stem in twice(listed)]
    for stem in dict.fromkeys(listed):
        if stem not in images:
            problems.append(f"{ANNOTATIONS}/{stem}.xml has no image of its name in {IMAGES}")
        elif stem not in xmls:
            problems.append(f"{IMAGES}/{stem} has no {ANNOTATIONS}/{stem}.xml")
        else:
            try:
                found[stem] = _read(xmls[stem])
            except _WrongFileError as error:
                problems.append(f"{os.path.relpath(xmls[stem], folder)} {error}")
    refuse(folder, problems)
    used = {IMAGES, ANNOTATIONS, os.path.dirname(LISTS)}
    left_out += [printable(entry.name) for entry in entries(folder) if entry.name not in used]
    left_out += [printable(f"{IMAGES}/{stem}") for stem in images if stem not in found]
    for stem, read in found.items():
        left_out += [f"{name} of {printable(stem)}.xml, a box of no area" for name in read.pop("flat")]
    return boxed_source(folder, splits, {stem: (images[stem], read) for stem, read in found.items()}, left_out)


def _folders(root):
    """The folders with the form of a year: the root, or those in it."""
    candidates = [os.fspath(root), *(entry.path for entry in entries(root) if is_folder(entry))]
    return [
        path for path in candidates if all(os.path.isdir(os.path.join(path, name)) for name in (IMAGES, ANNOTATIONS))
    ]


def _splits(folder, images, xmls, left_out) -> dict[str, list[str]]:
    """Split -> the names in its list; a list whose images have no annotations (VOC2012's test) is left out."""
    splits = {}
    for split, names in SPLITS.items():
        for name in names:
            path = os.path.join(folder, LISTS, f"{name}.txt")
            if split in splits or not os.path.isfile(path):
                continue
            try:
                with open(path, "rb") as file:
                    stems = [os.fsdecode(line.split()[0]) for line in file if line.strip()]
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}") from error
            if any(stem in xmls for stem in stems):
                splits[split] = stems
            else:
                left_out.append(f"{LISTS}/{name}.txt, whose images have no annotations")
    if not splits and not os.path.isdir(os.path.join(folder, LISTS)):
        splits["train"] = sorted({*images, *xmls}, key=os.fsencode)
    if not splits:
        raise UsageError(f"{printable(folder)} has no list of images with annotations; {EXPECTED}")
    return splits


def _read(path) -> dict:
    """What an XML file says: the image's name and size, and its objects with their class names."""
    root = _parse(path)
    if root.tag != "annotation":
        raise _WrongFileError(f"is not of VOC's form: it begins with <{root.tag}>, not <annotation>")
    stem = os.path.splitext(os.path.basename(path))[0]
    size = [root.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    if not all(map(WHOLE.fullmatch, size)):
        raise _WrongFileError(f"has the image size {' x '.join(size)!r}, not two whole numbers above 0")
    objects, flat = [], []
    for number, found in enumerate(root.findall("object"), 1):
        name = found.findtext("name", "").strip()
        place = f"object {number} ({name})"
        if not name:
            raise _WrongFileError(f"has no name in object {number}")
        box = [_side(found, side, place) for side in SIDES]
        box[0], box[1] = box[0] - 1, box[1] - 1
        if box[0] == box[2] or box[1] == box[3]:
            flat.append(place)
        else:
            objects.append([place, name, *box, int(found.findtext("difficult", "0").strip() == "1")])
    return {"id": stem, "size": [int(side) for side in size], "objects": objects, "flat": flat}


def _side(found, side, place):
    text = found.findtext(f"bndbox/{side}", "")
    try:
        return float(text)
    except ValueError:
        raise _WrongFileError(f"has {text!r} as {side} of {place}, not a number") from None


def _parse(path) -> Element:
    """The tree of an XML file. One that declares a document type is refused: entities could make it of any size."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def declared(*_):
        raise _WrongFileError("declares a document type, which annotations do not need: remove <!DOCTYPE ...>")

    parser.StartDoctypeDeclHandler = declared
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except OSError as error:
        raise _WrongFileError(f"cannot be read: {error.strerror}") from error
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two for encodings that nobody knows
        raise _WrongFileError(f"is damaged, or not XML: {error}") from error
