"""The scenes of the detection demo in COCO's format, and (slow) the whole demo."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from demo import detection, scenes, shapes
from tests.test_demo_segmentation import inside

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """The folder of three training and two validation scenes, and their samples."""
    folder = tmp_path_factory.mktemp("coco")
    with pytest.MonkeyPatch.context() as patch:
        for module in (shapes, scenes):
            patch.setattr(module, "COUNTS", {"train": 3, "validation": 2})
        held_out = scenes.write_coco(folder)
        return folder, list(shapes.samples()), held_out


def test_boxes_and_masks_are_of_what_is_seen_of_each_shape(coco):
    folder, samples, held_out = coco
    assert [sample.split for sample in held_out] == ["validation"] * 2
    for split in ("train", "validation"):
        content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        assert [c["name"] for c in content["categories"]] == ["disc", "star", "square", "ring", "triangle"]
        wanted = [sample for sample in samples if sample.split == split]
        assert len(content["images"]) == len(wanted)
        for image, sample in zip(content["images"], wanted, strict=True):
            with Image.open(folder / split / image["file_name"]) as picture:
                np.testing.assert_array_equal(np.asarray(picture), sample.pixels)
            found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            above = np.zeros(sample.mask.shape, bool)
            for annotation, shape in reversed(list(zip(found, sample.shapes, strict=True))):
                covered = inside(shape, sample.mask.shape)
                seen, above = covered & ~above, above | covered
                np.testing.assert_array_equal(run_lengths.decode(annotation["segmentation"]) > 0, seen)
                rows, columns = np.nonzero(seen)
                x, y, width, height = annotation["bbox"]
                assert (x, y) == (columns.min(), rows.min())
                assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
                assert (annotation["area"], annotation["category_id"]) == (seen.sum(), shape.label)


@pytest.mark.slow
@pytest.mark.parametrize("kind", detection.DEMOS)
def test_the_whole_demo(kind, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "PATH": str(Path(sys.executable).parent)}
    command = [sys.executable, "-m", "demo.detection", kind]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    demo = detection.DEMOS[kind]
    found = json.loads((tmp_path / demo.root / "predictions" / "detections.json").read_text())
    held_out = islice((s for s in shapes.samples() if s.split == "validation"), detection.SHOWN)
    matched = total = 0
    for number, sample in enumerate(held_out):
        own = [answer for answer in found if answer["image_id"] == number and answer["score"] > 0.3]
        for shape, seen in zip(sample.shapes, scenes.visible(sample), strict=True):
            box = scenes.box_of(seen)
            overlaps = run_lengths.iou([a["bbox"] for a in own if a["category_id"] == shape.label], [box], [0])
            matched, total = matched + (np.max(overlaps, initial=0) > 0.5), total + 1
    assert matched / total > 0.6
    assert re.search(r"\.png: (disc|star|square|ring|triangle) \d+%, rows ", result.stdout)  # served answers
    for picture in ("predictions.png", "records.png"):
        with Image.open(tmp_path / demo.root / picture) as image:
            assert image.size[0] > 500
