"""Boxes and masks of one image: turned as it is, cut out as COCO's own tools do."""

import contextlib
import io
import json

import numpy as np
import pytest
from box_files import annotation, coco_json, pixels, read_objects, write_coco
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture
from PIL import Image, ImageOps
from pycocotools import mask as reference

from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.images import RejectedImageError
from tfvt.tfrecords_tools.objects import instance_mask


def tagged(orientation, pixels, kind="JPEG"):
    block = Image.Exif()
    block[0x0112] = orientation
    return encode(pixels, kind, exif=block)


def marked(box, height=16, width=24):
    """A mask with a box, as Pillow turns it by its tag: an independent reference."""
    xmin, ymin, xmax, ymax = box
    mask = np.zeros((height, width), np.uint8)
    mask[ymin:ymax, xmin:xmax] = 255
    return mask


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_and_masks_turn_with_their_image(tmp_path, orientation):
    """The annotations say which size they are of: that of the stored pixels, or upright."""
    box = (2, 3, 12, 7)
    polygon = [[2, 3, 12, 3, 12, 7, 2, 7]]
    some = [annotation(1, 139, box=(2, 3, 10, 4), segmentation=polygon)]
    some += [annotation(2, 285, box=(2, 3, 10, 4), segmentation=polygon)]
    content = coco_json((139, 285, 632, 724), some)
    content["images"][1].update(width=16, height=24)
    root = write_coco(tmp_path / "coco", content)
    for number in (139, 285):
        (root / "train2017" / f"{number:012d}.jpg").write_bytes(tagged(orientation, picture(number)))
    convert(root, tmp_path / "records")
    found = read_objects(tmp_path / "records", "train")
    upright = Image.open(io.BytesIO(tagged(orientation, marked(box), "PNG")))
    expected = {"139": np.asarray(ImageOps.exif_transpose(upright)) > 0, "285": marked(box, 24, 16) > 0}
    for name, mask in expected.items():
        ((xmin, ymin, xmax, ymax),) = pixels(found[name], width=16, height=24)
        rows, columns = np.nonzero(mask)
        assert (xmin, ymin, xmax, ymax) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        stored = Image.open(io.BytesIO(found[name]["mask"][0]))
        assert stored.mode == "1"
        np.testing.assert_array_equal(np.asarray(stored), mask)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_mirror_or_half_turn_does_not_show_in_the_size(tmp_path, orientation):
    root = write_coco(tmp_path / "coco", coco_json((139, 285, 632, 724), [annotation(1, 139)]))
    (root / "train2017" / "000000000139.jpg").write_bytes(tagged(orientation, picture(139)))
    manifest = convert(root, tmp_path / "records", max_rejects=1)
    assert manifest.splits["train"][0].records == 3
    (reject,) = json.loads((tmp_path / "records" / "rejects.json").read_text())
    assert "the size of its image in the annotations does not show whether that is too: turn the" in reject["reason"]


COORDINATES = st.floats(-1, 18, width=32)


@settings(max_examples=100, deadline=None)
@given(polygons=st.lists(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=8), min_size=1, max_size=3))
def test_polygons_are_those_of_cocos_tools(polygons):
    flat = [[side for point in polygon for side in point] for polygon in polygons]
    expected = reference.decode(reference.merge(reference.frPyObjects(flat, 17, 18)))
    found = instance_mask(flat, 18, 17, "annotation 1")
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 70), width=st.integers(1, 70), share=st.floats(0, 1))
def test_run_lengths_are_those_of_cocos_tools(seed, height, width, share):
    """Compressed and not, of any mask."""
    mask = np.random.default_rng(seed).random((height, width)) < share
    compressed = reference.encode(np.asfortranarray(mask, np.uint8))
    compressed["counts"] = compressed["counts"].decode()
    np.testing.assert_array_equal(instance_mask(compressed, width, height, "annotation 1"), mask)
    column = mask.T.ravel()
    edges = np.flatnonzero(np.diff(column, prepend=False, append=not column[-1]))
    runs = {"counts": np.diff(edges, prepend=0).tolist(), "size": [height, width]}
    np.testing.assert_array_equal(instance_mask(runs, width, height, "annotation 1"), mask)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_as_run_lengths_is_a_mask_or_rejected(text):
    with contextlib.suppress(RejectedImageError):
        assert instance_mask({"counts": text, "size": [3, 4]}, 4, 3, "annotation 1").shape == (3, 4)
