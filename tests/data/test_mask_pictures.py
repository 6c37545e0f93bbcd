"""Pictures of label maps: palette, overlay, legend."""

import io

import numpy as np
from PIL import Image

from tfvt.data.mask_pictures import (
    LARGEST,
    LEGEND_WIDTH,
    LINE,
    MOST_LINES,
    SMALLEST,
    blended,
    class_shares,
    label_map_png,
    overlay_png,
    palette,
)
from tfvt.data.records import VOID


def opened(content):
    return Image.open(io.BytesIO(content))


def test_colours_of_all_classes_differ():
    colors = palette()
    assert colors.shape == (256, 3)
    assert len({tuple(color) for color in colors.tolist()}) == 256
    assert colors[VOID].tolist() == [0, 0, 0]
    distances = np.abs(colors[:20, None].astype(int) - colors[None, :20]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert distances.min() > 60  # of the first twenty, any two


def test_pixels_of_a_label_map_are_classes():
    label_map = np.random.default_rng(0).integers(0, 256, (7, 9), np.uint8)
    picture = opened(label_map_png(label_map))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (9, 7))
    np.testing.assert_array_equal(picture, label_map)
    np.testing.assert_array_equal(picture.convert("RGB"), palette()[label_map])


def test_void_pixels_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    mask = np.array([[0, 1, 2, VOID, VOID, 3]] * 4, np.uint8)
    found = np.asarray(blended(Image.fromarray(pixels), mask)).astype(int)
    np.testing.assert_array_equal(found[:, 3:5], pixels[:, 3:5])
    expected = (pixels.astype(int) + palette()[mask]) / 2
    np.testing.assert_allclose(np.delete(found, (3, 4), 1), np.delete(expected, (3, 4), 1), atol=1)


def test_shares_are_sorted():
    label_map = np.array([[3, 3, 3, 1], [0, 0, 3, 3]], np.uint8)
    assert class_shares(label_map) == [(3, 0.625), (0, 0.25), (1, 0.125)]


def test_an_overlay_is_of_a_size_to_look_at():
    names = [f"class {number}" for number in range(100)]
    for height, width, shown in ((30, 64, (225, 480)), (500, 700, (500, 700)), (40, 3200, (20, LARGEST))):
        image = np.full((height, width, 3), 200, np.uint8)
        sheet = opened(overlay_png(image, np.zeros((height, width), np.uint8), names))
        assert sheet.width == shown[1] + LEGEND_WIDTH
        assert sheet.height == max(shown[0], LINE + 24)
        assert max(sheet.width - LEGEND_WIDTH, shown[0]) >= SMALLEST
        expected = (200 + palette()[0].astype(int)) / 2
        np.testing.assert_allclose(np.asarray(sheet)[shown[0] // 2, shown[1] // 2], expected, atol=1)


def test_a_legend_has_a_line_for_each_class_and_one_for_the_rest():
    """Its swatches are those of the largest classes, and each has text on both sides."""
    label_map = np.repeat(np.arange(50, dtype=np.uint8), np.arange(101, 51, -1))[None].repeat(480, 0)
    names = ["a name that is far too long for a line of the legend"] + [f"class {number}" for number in range(1, 50)]
    sheet = np.asarray(opened(overlay_png(np.zeros((*label_map.shape, 3), np.uint8), label_map, names)))
    legend = sheet[:, -LEGEND_WIDTH:]
    lines = [legend[12 + LINE * number : 12 + LINE * (number + 1)] for number in range(MOST_LINES)]
    for number, line in enumerate(lines[:-1]):
        assert line[LINE // 2, 12 + 8].tolist() == palette()[number].tolist()
        name, percent = line[:, 40:240].min(-1), line[:, 250:].min(-1)
        assert (name < 128).any()
        assert (percent < 128).any()
    assert (legend[:, -11:] == 255).all()  # a margin
    assert (lines[-1][:, 12:28] == 255).all()  # no swatch
    assert (lines[-1][:, 40:240] < 128).any()
