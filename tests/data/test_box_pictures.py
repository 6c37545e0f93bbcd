"""Pictures of detections: boxes, labels, masks."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from tfvt.data.box_pictures import LINE, boxes_png
from tfvt.data.mask_pictures import LARGEST, SMALLEST, palette

NAMES = [f"class {number}" for number in range(300)]


def picture(size, boxes, labels=None, scores=None, masks=None, color=128):
    """The pixels of a picture of an image of one colour."""
    count = len(boxes)
    answer = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(range(count) if labels is None else labels, np.int32),
        "scores": np.array(np.linspace(0.9, 0.5, count) if scores is None else scores, np.float32),
    }
    if masks is not None:
        answer["masks"] = masks
    image = np.full((*size, 3), color, np.uint8)
    return np.asarray(Image.open(io.BytesIO(boxes_png(image, answer, NAMES))))


def is_color(pixels, label):
    return (pixels == palette()[label]).all(-1)


def test_a_box_is_drawn_on_its_border():
    pixels = picture((500, 640), [(101, 202, 300, 403)], [7])
    found = is_color(pixels, 7)
    found[:101] = False  # the label lies above
    rows, columns = np.nonzero(found)
    assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (101, 202, 300, 403)
    inside = np.zeros(found.shape, bool)
    inside[102 + LINE : 299 - LINE, 203 + LINE : 402 - LINE] = True
    assert not found[inside].any()
    assert (pixels[inside] == 128).all()
    rim = pixels[200, 202 - 1], pixels[200, 202 + LINE]
    assert {tuple(color.tolist()) for color in rim} in ({(0, 0, 0)}, {(255, 255, 255)}), (
        "a rim that differs from the colour"
    )


@pytest.mark.parametrize(("size", "shown"), [((30, 64), SMALLEST), ((300, 700), 700), ((40, 3200), LARGEST)])
def test_a_picture_is_of_a_size_to_look_at_and_boxes_follow(size, shown):
    height, width = size
    pixels = picture(size, [(height / 2, width / 4, height, width)], [0])
    assert pixels.shape[1] == shown
    middle = is_color(pixels, 0)[:, shown * 2 // 3]
    (rows,) = np.nonzero(middle)
    np.testing.assert_allclose(rows[0], pixels.shape[0] / 2, atol=1.01)
    (columns,) = np.nonzero(is_color(pixels, 0)[round(pixels.shape[0] * 0.8)])
    np.testing.assert_allclose(columns[0], shown / 4, atol=1.01)


def test_what_is_hardly_believed_is_left_out():
    boxes = [(100, 100, 200, 200), (300, 100, 400, 200)]
    pixels = picture((500, 640), boxes, [1, 2], [0.31, 0.29])
    assert is_color(pixels, 1).any()
    assert not is_color(pixels, 2).any()
    assert (picture((480, 640), []) == 128).all()


def test_the_better_lies_over_the_worse_and_labels_beside_one_another():
    boxes = [(100, 100, 300, 300)] * 3
    pixels = picture((480, 640), boxes, [0, 1, 2])
    assert is_color(pixels, 0)[200, 100:104].any()
    assert not is_color(pixels, 1)[150:280, 95:104].any()
    tags = [np.nonzero(is_color(pixels, label)) for label in range(3)]
    spans = []
    for rows, _ in tags[1:]:  # of these only the labels are seen
        spans.append((rows.min(), rows.max()))
    first = np.nonzero(is_color(pixels[:100], 0))[0]
    spans.append((first.min(), first.max()))
    spans.sort()
    assert all(above[1] < below[0] for above, below in itertools.pairwise(spans))


@pytest.mark.parametrize("label", range(12))
def test_letters_differ_from_their_colour(label):
    """By WCAG's formulas."""
    tag = picture((480, 640), [(100, 100, 300, 300)], [label])[82:97, 104:160].reshape(-1, 3) / 255
    linear = np.where(tag <= 0.04045, tag / 12.92, ((tag + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    assert (luminance.max() + 0.05) / (luminance.min() + 0.05) >= 4.5


def test_masks_are_half_transparent_with_a_rim():
    masks = np.zeros((1, 28, 28), np.float32)
    masks[0, 7:21, 7:21] = 1
    pixels = picture((480, 640), [(100, 100, 380, 380)], [3], masks=masks)
    expected = (palette()[3].astype(int) + 128) // 2
    np.testing.assert_array_equal(pixels[240, 240], expected)
    assert (pixels[130, 130] == 128).all()
    filled = (pixels[200:280] == expected).all(-1)
    columns = np.nonzero(filled.all(0))[0]
    np.testing.assert_allclose((columns[0], columns[-1] + 1), (170, 310), atol=2)
    assert is_color(pixels, 3)[200:280, columns[0] - 1].all()


@pytest.mark.parametrize(
    ("box", "top", "bottom", "left", "right"),
    [
        ((0, 0, 480, 640), 0, 479, 0, 639),
        ((-50, -50, 600, 800), 1, 19, 1, 94),  # its lines lie outside, its label does not
        ((479, 639, 480, 640), 460, 478, 545, 639),
        ((100, 150, 100, 150), 81, 103, 148, 244),  # a point
    ],
)
def test_boxes_at_and_over_the_border_are_drawn(box, top, bottom, left, right):
    """What has the colour of the class is the box with its label, which lies inside the picture."""
    rows, columns = np.nonzero(is_color(picture((480, 640), [box], [3]), 3))
    assert (rows.min(), rows.max()) == (top, bottom)
    np.testing.assert_allclose((columns.min(), columns.max()), (left, right), atol=2)
