"""`tfvt records`: what inspection reports and refuses, and the command line around both commands."""

from pathlib import Path

import numpy as np
import pytest
from image_files import encode, picture, write_folder
from PIL import Image
from record_sets import example, write_set

from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.contact_sheet import contact_sheet
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.inspect import inspect


@pytest.fixture
def output(tmp_path):
    """Two splits of 4 + 3 images in two shards each, one of them a larger PNG."""
    source = write_folder(tmp_path / "images")
    (source / "train" / "class0" / "0.jpg").write_bytes(encode(picture(0, 40, 30), "PNG"))
    convert(source, tmp_path / "records", shards=2, label_offset=1)
    return tmp_path / "records"


def test_report(output):
    train, validation = inspect(output)
    assert (train.split, train.num_examples, train.shards) == ("train", 7, 2)
    assert train.bytes == sum(path.stat().st_size for path in output.glob("train-*"))
    assert train.class_counts.tolist() == [4, 3]
    assert train.formats == {"JPEG": 6, "PNG": 1}
    assert sorted(train.heights.tolist()) == [16] * 6 + [40]
    assert sorted(train.widths.tolist()) == [24] * 6 + [30]
    assert (validation.split, validation.formats) == ("validation", {"JPEG": 7})


def test_every_damaged_shard_is_named(output):
    for name in ("train-00001-of-00002", "validation-00000-of-00002"):
        content = bytearray((output / name).read_bytes())
        content[-20] ^= 1  # in the last record
        (output / name).write_bytes(content)
    with pytest.raises(UsageError) as raised:
        inspect(output)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"2 damaged shards in {output}:"
    assert lines[1] == f"record 3 of {output / 'train-00001-of-00002'} is damaged or cut off"
    assert lines[2] == f"record 2 of {output / 'validation-00000-of-00002'} is damaged or cut off"


def edit_manifest(output, old, new):
    text = (output / "manifest.json").read_text()
    assert old in text
    (output / "manifest.json").write_text(text.replace(old, new))


def test_manifest_of_other_labels_is_refused(output):
    edit_manifest(output, '"label_offset": 1', '"label_offset": 0')
    with pytest.raises(UsageError, match=r"record \d of .*train-00000-of-00002 has label 2, not one from 0 to 1"):
        inspect(output)


def test_manifest_of_fewer_records_is_refused(output):
    edit_manifest(output, '"records": 3', '"records": 2')
    with pytest.raises(UsageError, match=r"train-00000-of-00002 has 3 records, the manifest says 2"):
        inspect(output)


def test_strange_names_are_printed(tmp_path, capsys):
    """A format that is not UTF-8, and a class name that looks like markup of the tables."""
    output = write_set(tmp_path, {"train": [example(0, format=b"JP\xffG"), example(1)]})
    edit_manifest(output, '"a"', '"[/a]"')
    assert main(["inspect", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "JPEG 1, JP\\xffG 1" in printed
    assert "[/a]" in printed


def test_command_line(tmp_path, capsys):
    source, output = write_folder(tmp_path / "images", counts=(4, 2)), tmp_path / "records"
    (source / "test").mkdir()
    assert main(["convert", str(source), str(output), "--shards", "3"]) == 0
    printed = capsys.readouterr()
    assert "train: 6 images in 3 shards" in printed.out
    assert "left out, because the source has no place for them: test" in printed.err
    assert "12/12" in printed.err

    assert main(["inspect", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "16 / 16 / 16" in printed
    rows = [line.split() for line in printed.splitlines() if "class" in line and "█" in line]
    assert [(row[0], row[2], len(row[4])) for row in rows] == [("class0", "4", 30), ("class1", "2", 15)] * 2

    Path(output, "train-00002-of-00003").unlink()
    assert main(["inspect", str(output)]) == 2
    assert "train-00002-of-00003 is missing" in capsys.readouterr().err
    assert main(["convert", str(source), str(output)]) == 2
    error = capsys.readouterr().err
    assert "error:" in error
    assert "--overwrite" in error
    assert "Traceback" not in error


def test_many_classes_are_shortened(tmp_path, capsys):
    source = write_folder(tmp_path / "images", counts=(2, *[1] * 49), splits=("train",))
    assert main(["convert", str(source), str(tmp_path / "records")]) == 0
    assert main(["inspect", str(tmp_path / "records")]) == 0
    printed = capsys.readouterr().out
    assert "The 20 classes with the most and the 20 with the fewest images" in printed
    assert sum("█" in line for line in printed.splitlines()) == 40


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as raised:
        main([])
    assert raised.value.code == 2
    assert "convert" in capsys.readouterr().err


def test_segmentation_set_has_no_class_histogram(tmp_path, capsys):
    mask = encode(np.zeros((16, 24), np.uint8), "PNG")
    write_set(tmp_path, {"train": [example(number, label=-1, synset="", text="", mask=mask) for number in range(3)]})
    (report,) = inspect(tmp_path)
    assert (report.num_examples, report.class_counts.tolist()) == (3, [0, 0])
    assert main(["inspect", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "without label" in printed
    assert "█" not in printed


def test_label_minus_1_of_a_training_image_is_refused(tmp_path):
    write_set(tmp_path, {"train": [example(0), example(label=-1)]})
    with pytest.raises(UsageError, match=r"record 1 of .*train-00000-of-00001 has label -1, not one from 0 to 1"):
        inspect(tmp_path)


def test_first_record_of_another_schema_is_named(tmp_path):
    write_set(tmp_path, {"train": [example(0), example(1), b"\x0a\xff", example(3)]})
    with pytest.raises(
        UsageError, match=r"record 2 of .*00000-of-00001 does not match the schema: it is not a tf.train.Example"
    ):
        inspect(tmp_path)


BLACK, GREY = np.zeros((40, 40, 3), np.uint8), np.full((20, 60, 3), 128, np.uint8)


def sheet(directory, **options):
    contact_sheet(directory, directory / "sheet.png", **options)
    return np.asarray(Image.open(directory / "sheet.png")).astype(int)


def test_contact_sheet_shows_each_record_and_what_it_is(tmp_path):
    pictures = [
        example(0, encoded=encode(pixels, "PNG"), format="PNG", height=len(pixels), width=len(pixels[0]), text=text)
        for pixels, text in ((BLACK, ""), (GREY, "a bird of passage, or one that stays"))
    ]
    pixels = sheet(write_set(tmp_path, {"train": pictures[:1], "validation": pictures[1:]}))
    assert pixels.shape == (206, 352, 3), "two cells side by side"
    black = np.argwhere((pixels[8:168] == 0).all(-1))
    assert len(black) == 40 * 40
    grey = np.argwhere((pixels[8:168] == 128).all(-1))
    assert len(grey) == 20 * 60
    assert (pixels[168:] < 255).any(axis=(0, 2)).sum() > 150, "captions"
    assert len(np.unique(pixels[170:185, :176])) > 2, "a synset stands where there is no text"


def test_contact_sheet_draws_at_random(tmp_path):
    shades = [np.full((4, 4, 3), 4 * number, np.uint8) for number in range(40)]
    encoded = [encode(shade, "PNG") for shade in shades]
    values = {"format": "PNG", "height": 4, "width": 4}
    directory = write_set(tmp_path, {"train": [example(i, encoded=e, **values) for i, e in enumerate(encoded)]})

    def shown(**options):
        pixels = sheet(directory, **options)
        rows, columns = (size // cell for size, cell in zip(pixels.shape, (206, 176), strict=False))
        centers = [pixels[206 * row + 88, 176 * column + 88, 0] for row in range(rows) for column in range(columns)]
        return [int(center) // 4 for center in centers if center < 255]

    drawn = shown(count=9, seed=1)
    assert drawn == np.random.default_rng(1).choice(40, 9, replace=False).tolist()
    assert shown(count=9, seed=2) != drawn
    assert sorted(shown(count=64)) == list(range(40)), "no more than there are"


def test_contact_sheet_lays_masks_over_their_images(tmp_path):
    mask = np.full((40, 40), 255, np.uint8)
    mask[:10], mask[10:20] = 0, 1
    values = {"encoded": encode(BLACK, "PNG"), "format": "PNG", "height": 40, "width": 40}
    masked = example(label=-1, synset="", text="", mask=encode(mask, "PNG"), **values)
    pixels = sheet(write_set(tmp_path, {"train": [masked]}))
    image = pixels[68:108, 68:108]
    assert (image[20:] == 0).all(), "where there is no class, the image"
    first, second = image[5, 5], image[15, 5]
    assert first.max() == second.max() == 127, "half of a full colour over black"
    assert (image[:10] == first).all()
    assert (image[10:20] == second).all()
    assert (first != second).any()
    caption = pixels[168:185].reshape(-1, 3)
    for color in (first, second):  # beside the class's name, and whole
        assert (abs(caption - 2 * color).max(-1) <= 1).sum() == 49


@pytest.mark.parametrize(
    ("spoilt", "path", "options", "message"),
    [
        (example(encoded=b"none"), "sheet.png", {}, r"record 0 of .*00000-of-00001 cannot be shown: cannot identify"),
        (b"\x0a\xff", "sheet.png", {}, r"record 0 of .*00000-of-00001 cannot be shown: it is not a tf.train.Example"),
        (
            example(mask=encode(np.full((16, 24), 7, np.uint8), "PNG")),
            "sheet.png",
            {},
            "record 0 of .* cannot be shown",
        ),
        (example(), "sheet.jpg", {}, "a contact sheet is a PNG: .*sheet.jpg does not end in .png"),
        (example(), "sheet.png", {"count": 0}, "needs at least one record, not 0"),
    ],
)
def test_contact_sheet_that_cannot_be(tmp_path, spoilt, path, options, message):
    write_set(tmp_path, {"train": [spoilt]})
    with pytest.raises(UsageError, match=message):
        contact_sheet(tmp_path, tmp_path / path, **options)
    assert not (tmp_path / path).exists()


def test_contact_sheet_on_the_command_line(output, tmp_path):
    path = tmp_path / "sheet.png"
    assert main(["inspect", str(output), "--contact-sheet", str(path), "-n", "5", "--seed", "3"]) == 0
    with Image.open(path) as image:
        assert image.size == (3 * 176, 2 * 206)
