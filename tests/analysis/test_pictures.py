"""Pictures: what they show, where, and in which colours."""

import re

import numpy as np
from PIL import Image

from tfvt.analysis import (
    MapRow,
    draw_class_images,
    draw_localness,
    draw_maps,
    draw_token_attention,
    draw_training_curves,
)


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def near(pixels, color, distance=40):
    return np.abs(pixels - np.array(color)).sum(axis=-1) < distance


def test_the_picture_shows_the_attention(tmp_path):
    images = np.full((2, 16, 16, 3), 128.0)
    attention = np.zeros((2, 4, 4, 3))
    attention[0, 1, 1, 0] = 1.0
    draw_token_attention(images, attention, tmp_path / "tokens.png", titles=["one", "two"])
    pixels = pixels_of(tmp_path / "tokens.png")[:-90]  # without the legend of colours
    yellow = (pixels[..., 0] > 160) & (pixels[..., 1] > 160) & (pixels[..., 2] < 110)
    assert 20 < yellow.sum() < 0.02 * yellow.size  # one spot, in one of the six maps
    rows, columns = np.nonzero(yellow)
    assert rows.max() < pixels.shape[0] / 2
    assert columns.min() > pixels.shape[1] / 4
    assert columns.max() < pixels.shape[1] / 2


def test_rows_are_as_high_as_their_images(tmp_path):
    sizes = []
    for height in (16, 32):
        path = tmp_path / f"{height}.png"
        draw_token_attention(np.zeros((6, height, 32, 3)), np.ones((6, 2, 2, 3)), path)
        with Image.open(path) as picture:
            sizes.append(picture.size)
    (width, flat), (same_width, square) = sizes
    assert width == same_width
    assert 0.5 * square < flat < 0.65 * square


def test_cells_that_jut_out_are_cut_off(tmp_path):
    """A map of 3x3 cells of 4 pixels on an image of 9x9: the last cells have one pixel each."""
    values = np.zeros((3, 3))
    values[2, 2] = 1
    row = MapRow(np.zeros((9, 9, 3)), "image", {"map": values})
    draw_maps([row], "attention", tmp_path / "map.png", overlay=False)
    pixels = pixels_of(tmp_path / "map.png")
    pixels = pixels[: int(len(pixels) * 0.65)]  # without the legend of colours
    yellow, violet = near(pixels, (253, 231, 37)), near(pixels, (68, 1, 84))
    assert 7 < violet.sum() / yellow.sum() < 200
    ratio = violet.sum() / yellow.sum()
    assert abs(ratio - 80) < 25  # one pixel of 81


def test_more_maps_than_columns_go_below(tmp_path):
    row = MapRow(np.zeros((8, 8, 3)), "image", {str(number): np.eye(4) for number in range(5)})
    for columns, lines in ((5, 1), (2, 3)):
        draw_maps([row], "attention", tmp_path / f"{lines}.png", columns=columns)
    heights = [pixels_of(tmp_path / f"{lines}.png").shape[0] for lines in (1, 3)]
    assert 2 < (heights[1] - 80) / (heights[0] - 80) < 4


def test_localness_rises_where_it_does(tmp_path):
    layers = {f"layer{n}": np.array([n, n + 0.5]) / 10 for n in range(5)}
    draw_localness({"vit": (layers, [0.05] * 5)}, tmp_path / "local.png")
    pixels = pixels_of(tmp_path / "local.png")
    rows, columns = np.nonzero(near(pixels, (0, 114, 178)))
    line = (columns > 0.15 * pixels.shape[1]) & (rows > 0.35 * pixels.shape[0]) & (rows < 0.75 * pixels.shape[0])
    assert np.corrcoef(rows[line], columns[line])[0, 1] < -0.9


def test_curves_of_several_runs_share_their_plots(tmp_path):
    def run(epochs, **columns):
        return {"step": range(10, 10 * epochs + 10, 10), **columns}

    one = run(3, train_loss=[3, 2, 1], validation_loss=[3, np.nan, 2], validation_top1=[0.1, 0.5, 0.9])
    other = run(2, train_loss=[2, 1], validation_loss=[3, 2])
    draw_training_curves({"one": one}, tmp_path / "one.png")
    draw_training_curves({"one": one, "other": other}, tmp_path / "two.png")
    orange = [near(pixels_of(tmp_path / f"{name}.png"), (213, 94, 0)) for name in ("one", "two")]
    assert orange[0].sum() == 0
    columns = np.nonzero(orange[1])[1]
    assert len(columns) > 50
    assert columns.max() < orange[1].shape[1] / 2  # the other run has a loss alone, the first plot


def test_class_images_have_a_row_for_each_model(tmp_path):
    red, blue = (np.full((8, 8, 3), color, "float32") for color in ((255, 0, 0), (0, 0, 255)))
    draw_class_images({"vit": {"cat": red, "dog": blue}, "funnel": {"cat": blue}}, tmp_path / "classes.png")
    pixels = pixels_of(tmp_path / "classes.png")
    red, blue = near(pixels, (255, 0, 0)), near(pixels, (0, 0, 255))
    assert 1.9 < blue.sum() / red.sum() < 2.1
    assert np.nonzero(red)[0].max() < len(pixels) / 2


def test_names_are_no_formulas_and_all_stand_in_the_legend(tmp_path):
    """Matplotlib reads formulas between "$", and leaves labels out that begin with "_"."""
    row = MapRow(np.zeros((9, 9, 3)), "$x^$.png", {"$\\frac{1}{$": np.ones((3, 3))})
    draw_maps([row], "attention", tmp_path / "maps.svg")
    run = {"step": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.0]}
    draw_training_curves({"_first$^$": run, "second": run}, tmp_path / "curves.svg")
    texts = re.findall("<!-- +(.*?) -->", (tmp_path / "curves.svg").read_text() + (tmp_path / "maps.svg").read_text())
    assert {"_first$^$, validation", "_first$^$, train", "second, train", "$x^$.png"} <= set(texts)
