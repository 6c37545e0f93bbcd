"""Images with boxes in the forms of COCO, Pascal VOC and a table, for the tests of conversion."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from image_files import encode, picture

from tfvt.data.records import OBJECT_LISTS, SOURCE_ID, feature_spec

# Ids that do not count from 0 and are not in order; labels are their places in the order of the ids.
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
POLYGON = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]


def annotation(number, image, category=18, box=(2.0, 3.0, 10.0, 6.0), segmentation=POLYGON, **more):
    values = {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "area": 60.0, "iscrowd": 0}
    return values | ({"segmentation": segmentation} if segmentation is not None else {}) | more


def crowd(number, image, height=16, width=24):
    """Uncompressed run lengths, column by column: the columns 1 to 3, and one pixel of the next."""
    runs = [height, 3 * height + 1, height * width - 4 * height - 1]
    more = {"iscrowd": 1, "area": float(runs[1])}
    return annotation(number, image, 1, (1.0, 0.0, 4.0, 16.0), {"counts": runs, "size": [height, width]}, **more)


def coco_json(numbers, annotations, **more):
    """What a file says of images of 24 x 16 pixels."""
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "width": 24, "height": 16} for number in numbers]
    return {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": CATEGORIES} | more


def write_coco(root, train=None, validation=None):
    """COCO's layout with four images, of which 285 has no objects, and two for validation."""
    root = Path(root)
    contents = {
        "train": ((139, 285, 632, 724), train),
        "val": ((776, 785), validation),
    }
    (root / "annotations").mkdir(parents=True)
    for split, (numbers, content) in contents.items():
        some = [annotation(17, numbers[0]), annotation(3, numbers[0], 90, (0, 0, 24, 16)), crowd(5, numbers[-1])]
        content = coco_json(numbers, some) if content is None else content
        text = content if isinstance(content, str) else json.dumps(content)
        (root / "annotations" / f"instances_{split}2017.json").write_text(text)
        (root / f"{split}2017").mkdir()
        for number in numbers:
            (root / f"{split}2017" / f"{number:012d}.jpg").write_bytes(encode(picture(number)))
    return root


VOC_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>"
    "<xmax>{2}</xmax><ymax>{3}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
    "<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
)


def voc_xml(*objects, width=24, height=16):
    """Objects are (name, xmin, ymin, xmax, ymax[, difficult])."""
    described = [VOC_OBJECT.format(*box[:4], name=name, difficult=(*box, 0)[4]) for name, *box in objects]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>wrong.png</filename>{size}{''.join(described)}</annotation>"


def write_voc(root, xmls=None, lists=None):
    """A year's folder; by default three images for training, one without objects, and one for validation."""
    root = Path(root)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    if xmls is None:
        xmls = {
            "2007_01": voc_xml(("dog", 1, 1, 24, 16), ("cat", 3, 4, 10.5, 8, 1)),
            "2007_02": voc_xml(),
            "2007_03": voc_xml(("cat", 5, 5, 6, 6)),
            "2007_04": voc_xml(("dog", 2, 2, 9, 9)),
        }
        lists = {"train": ["2007_01", "2007_02", "2007_03"], "val": ["2007_04"], "trainval": [*xmls]}
    for index, (stem, xml) in enumerate(xmls.items()):
        (root / "Annotations" / f"{stem}.xml").write_text(xml)
        (root / "JPEGImages" / f"{stem}.jpg").write_bytes(encode(picture(index)))
    for name, stems in (lists or {}).items():
        (root / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return root


def read_objects(output, split) -> dict[str, dict]:
    """Source id -> the lists of its record, without those that are not there."""
    found = {}
    for path in sorted(Path(output).glob(f"{split}-*")):
        for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            stored = tf.train.Example.FromString(serialized).features.feature
            names = [name for name in OBJECT_LISTS if name in stored]
            values = tf.io.parse_single_example(serialized, feature_spec((*names, SOURCE_ID)))
            record = {name.removeprefix("image/object/"): values[name].numpy().tolist() for name in names}
            found[values[SOURCE_ID].numpy().decode()] = record
    return found


def pixels(record, width=24, height=16):
    """The boxes of a record as xmin, ymin, xmax, ymax in pixels."""
    sides = [np.array(record[f"bbox/{side}"]) for side in ("xmin", "ymin", "xmax", "ymax")]
    return (np.stack(sides, -1) * (width, height, width, height)).round(4).tolist()
