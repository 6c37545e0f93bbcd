"""`tfvt records index`: foreign shards get a manifest that says what they are, or an error that says why not."""

import gzip
import re
import shlex
from pathlib import Path

import pytest
from foreign_shards import CLASSES, imagenet_to_gcs_features, serialize, slim_features, write_shards
from image_files import contents, write_folder

from tfvt.data.records import open_records, read_manifest
from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert
from tfvt.tfrecords_tools.index import index
from tfvt.tfrecords_tools.inspect import inspect
from tfvt.tfrecords_tools.verify import verify

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "record_checks.md"
SYNSETS = tuple(synset for synset, _ in CLASSES)


def slim(directory, numbers=range(10), split="train", label_offset=1, **options):
    write_shards(directory, split, [serialize(slim_features(number, label_offset)) for number in numbers], **options)
    return directory


def change(index, **values):
    """A slim record with other features; None removes one."""
    features = slim_features(index)
    for name, value in values.items():
        name = {"label": "image/class/label", "synset": "image/class/synset", "text": "image/class/text"}.get(
            name, name
        )
        if value is None:
            del features[name]
        elif isinstance(value, int):
            features[name].int64_list.value[:] = [value]
        else:
            features[name].bytes_list.value[:] = [value.encode()]
    return serialize(features)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_compressed_shards_are_named(tmp_path, suffix):
    slim(tmp_path)
    path = tmp_path / "train-00000-of-00002"
    content = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(path.name + suffix).write_bytes(content)
    with pytest.raises(UsageError, match=rf"train-00000-of-00002{suffix} is gzip-compressed TFRecord, .* with gunzip"):
        index(tmp_path, label_offset=1)
    assert not (tmp_path / "manifest.json").exists()


def test_given_names_that_are_equal_are_refused(tmp_path):
    slim(tmp_path)
    with pytest.raises(UsageError, match=r"have the same name: crane; give others"):
        index(tmp_path, label_offset=1, class_names=("tench", "goldfish", "crane", "crane"))


def test_slim_shards(tmp_path):
    slim(tmp_path, range(10), shards=3)
    slim(tmp_path, range(10, 14), "validation")
    manifest = index(tmp_path, label_offset=1)
    assert read_manifest(tmp_path) == manifest
    assert (manifest.class_names, manifest.label_offset) == (SYNSETS, 1)
    assert [(shard.name, shard.records) for shard in manifest.splits["train"]] == [
        ("train-00000-of-00003", 3),
        ("train-00001-of-00003", 3),
        ("train-00002-of-00003", 4),
    ]
    assert [shard.records for shard in manifest.splits["validation"]] == [2, 2]
    train, validation = inspect(tmp_path)
    assert train.class_counts.tolist() == [3, 3, 2, 2]
    assert validation.class_counts.tolist() == [1, 1, 1, 1]
    assert verify(tmp_path).findings == ()


def test_imagenet_to_gcs_keeps_each_split_in_its_folder(tmp_path):
    for split, numbers in (("train", range(8)), ("validation", range(8, 12))):
        examples = [serialize(imagenet_to_gcs_features(number)) for number in numbers]
        write_shards(tmp_path / split, split, examples)
    index(tmp_path, label_offset=1)
    assert verify(tmp_path).findings == ()
    records = open_records(tmp_path, "validation")
    assert records.shard_paths[0] == str(tmp_path / "validation" / "validation-00000-of-00002")
    assert (records.num_examples, records.class_names) == (4, SYNSETS)


def test_offset_is_known_from_label_0_in_any_split(tmp_path):
    slim(tmp_path, (1, 2, 3), label_offset=0)
    slim(tmp_path, (0, 1), "validation", label_offset=0)
    manifest = index(tmp_path)
    assert (manifest.label_offset, manifest.class_names) == (0, SYNSETS)


def test_offset_is_known_from_the_last_label_of_a_class_list(tmp_path):
    slim(tmp_path)
    assert index(tmp_path, class_names=SYNSETS).label_offset == 1


def test_offset_that_no_label_tells_is_asked_for(tmp_path):
    slim(tmp_path)
    message = (
        f"the labels of {tmp_path} are 1 to 4, which does not tell whether the first class is 0 or 1: give "
        "--label-offset 1 (slim and imagenet_to_gcs count so) or --label-offset 0"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        index(tmp_path)
    with pytest.raises(UsageError, match="does not tell whether the first class is 0 or 1"):
        index(tmp_path, class_names=(*SYNSETS, "another", "and another"))
    assert not (tmp_path / "manifest.json").exists()


def test_lost_manifest_comes_back(tmp_path):
    convert(write_folder(tmp_path / "images"), tmp_path / "records", shards=2)
    lost = read_manifest(tmp_path / "records")
    (tmp_path / "records" / "manifest.json").unlink()
    found = index(tmp_path / "records")
    assert (found.class_names, found.label_offset, found.splits) == (lost.class_names, lost.label_offset, lost.splits)


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (0, {"label_offset": 1}, r"record 0 of .*train-00001-of-00002 has label 0, not one from 1 to 4"),
        (5, {"class_names": SYNSETS}, r"record 0 of .*train-00001-of-00002 has label 5, not one from 1 to 4"),
        (0, {"class_names": SYNSETS}, r"record \d of .* has label 4, not one from 0 to 3"),
        (-1, {"label_offset": 1}, r"record 0 of .*train-00001-of-00002 has label -1, not one from 1 to 4"),
    ],
)
def test_label_out_of_range_is_named(tmp_path, label, options, message):
    examples = [serialize(slim_features(number)) for number in range(8)]
    examples[4] = change(4, label=label, synset="", text="")
    write_shards(tmp_path, "train", examples)
    with pytest.raises(UsageError, match=message):
        index(tmp_path, **options)
    assert not (tmp_path / "manifest.json").exists()


def test_unlabelled_test_images_have_no_say(tmp_path):
    slim(tmp_path)
    write_shards(tmp_path, "test", [change(number, label=-1, synset="", text="") for number in range(3)], shards=1)
    manifest = index(tmp_path, label_offset=1)
    assert [shard.records for shard in manifest.splits["test"]] == [3]
    assert verify(tmp_path).problems == []
    _, test = inspect(tmp_path)
    assert (test.num_examples, test.class_counts.sum()) == (3, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"synset": "n9"},
            r"label 1 has synset 'n01440764' in record 0 of .*train-00000-of-00002, and 'n9' in record 0 of .*00001-of",
        ),
        ({"text": "koi"}, r"label 1 has text 'tench' in record 0 of .*, and 'koi' in record 0 of .*00001-of"),
        ({"label": 2}, r"synset n01440764 has label 1 in record 0 of .*, and 2 in record 0 of .*00001-of"),
    ],
)
def test_classes_that_contradict_each_other(tmp_path, changed, message):
    examples = [serialize(slim_features(number)) for number in range(8)]
    examples[4] = change(4, **changed)
    write_shards(tmp_path, "train", examples)
    with pytest.raises(UsageError, match=message):
        index(tmp_path, label_offset=1)


def test_splits_whose_class_lists_differ(tmp_path):
    slim(tmp_path)
    others = [change(number, label=4 - number % 4) for number in range(4)]
    write_shards(tmp_path, "validation", others)
    with pytest.raises(UsageError, match=r"label 4 has synset 'n01491361' in .*train.*'n01440764' in .*validation"):
        index(tmp_path, label_offset=1)


def test_class_without_records_needs_a_list_of_names(tmp_path):
    slim(tmp_path, (0, 1, 3, 4))
    with pytest.raises(
        UsageError, match=r"no record of .* has label 3 \(1 of 4 labels missing\).* give .* --class-names FILE"
    ):
        index(tmp_path, label_offset=1)
    assert index(tmp_path, class_names=SYNSETS).class_names == SYNSETS


def test_label_from_nowhere_is_no_class_list(tmp_path):
    write_shards(tmp_path, "train", [change(0), change(1, label=2**40)])
    with pytest.raises(UsageError, match=r"no record of .* has label 2 \(1099511627774 of 1,099,511,627,776 labels"):
        index(tmp_path, label_offset=1)


def test_records_without_names(tmp_path):
    nameless = [change(number, synset=None, text=None) for number in range(8)]
    write_shards(tmp_path, "train", nameless)
    with pytest.raises(UsageError, match=r"record 0 of .* has no class name: give the names with --class-names FILE"):
        index(tmp_path, label_offset=1)
    assert index(tmp_path, class_names=("a", "b", "c", "d")).class_names == ("a", "b", "c", "d")


def test_texts_are_names_where_there_are_no_synsets(tmp_path):
    write_shards(tmp_path, "train", [change(number, synset=None) for number in (0, 1, 2)])
    assert index(tmp_path, label_offset=1).class_names == ("tench", "goldfish", "crane")


def test_texts_that_two_classes_share_are_no_names(tmp_path):
    write_shards(tmp_path, "train", [change(number, synset=None) for number in range(4)])
    with pytest.raises(UsageError, match=r"classes of .* have the same name: crane"):
        index(tmp_path, label_offset=1)


def test_class_names_of_other_labels_are_refused(tmp_path):
    slim(tmp_path)
    with pytest.raises(UsageError, match=r"not those of the records: class 'n01443537' of the manifest is 'n01440764'"):
        index(tmp_path, class_names=(SYNSETS[1], SYNSETS[0], *SYNSETS[2:]))
    names = ("Schleie", "Goldfisch", "Kranich", "Kran")  # of one's own
    assert index(tmp_path, class_names=names).class_names == names


def remove(name):
    return lambda directory: (directory / name).unlink()


def cut(directory):
    path = directory / "train-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-3])


def flip(directory):
    path = directory / "train-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("train-00001-of-00002"), "split train in .* is incomplete: 1 of 2 shards missing, train-00001-of"),
        (lambda directory: slim(directory, shards=3), "split train in .* has shards of 00002, 00003 files"),
        (lambda directory: slim(directory / "train"), "split train has shards both in .* and in .*/train: keep one"),
        (cut, r"record 4 of .*train-00001-of-00002 is damaged or cut off"),
        (flip, r"record 4 of .*train-00000-of-00002 is damaged or cut off"),
        (lambda directory: (directory / ".partial").mkdir(), r"holds an unfinished conversion: run .* convert"),
        (
            lambda directory: write_shards(directory, "train", [change(0), change(1, **{"image/height": None})], 2),
            r"record 0 of .*train-00001-of-00002 does not match the schema: .*image/height",
        ),
        (lambda directory: write_shards(directory, "train", [b"\x0a\xff", change(1)]), "record 0 of .*schema"),
        (lambda directory: write_shards(directory, "train", [], 2), "has no record with a label"),
    ],
)
def test_shards_that_are_not_as_they_must_be(tmp_path, spoil, message):
    spoil(slim(tmp_path))
    with pytest.raises(UsageError, match=message):
        index(tmp_path, label_offset=1)
    assert not (tmp_path / "manifest.json").exists()


def test_folders_without_shards(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        index(tmp_path / "nowhere")
    (tmp_path / "imagenet2012-train.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no shards: they are called train-00000-of-00008"):
        index(tmp_path)


def test_command_line(tmp_path, capsys):
    slim(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(SYNSETS) + "\n")
    assert main(["index", str(tmp_path)]) == 2
    assert "does not tell whether" in capsys.readouterr().err
    assert main(["index", str(tmp_path), "--class-names", str(names)]) == 0
    printed = capsys.readouterr()
    assert "train: 10 images in 2 shards" in printed.out
    assert "4 classes, labels from 1" in printed.out
    assert "100%" in printed.err
    before = contents(tmp_path)
    assert main(["index", str(tmp_path), "--label-offset", "1"]) == 2
    assert "manifest.json already: replace it with --overwrite" in capsys.readouterr().err
    assert main(["index", str(tmp_path), "--label-offset", "1", "--overwrite", "--workers", "1"]) == 0
    assert contents(tmp_path) == before
    assert main(["verify", str(tmp_path)]) == 0

    for text, message in (
        (b"a\n\nb", f"line 2 of {names} is empty"),
        (b"a\nb\na\n", f"line 3 of {names} has the name of line 1, 'a'"),
        (b"\xff", f"{names} is not UTF-8 text"),
    ):
        names.write_bytes(text)
        assert main(["index", str(tmp_path), "--class-names", str(names), "--overwrite"]) == 2
        assert message in capsys.readouterr().err


def test_documented_commands_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    convert(write_folder(Path("images")), "OUTPUT", shards=2)
    for split, number in (("train", 4), ("validation", 2)):
        slim(Path("DIRECTORY", split), range(4), split, shards=number)
    text = DOCUMENTATION.read_text(encoding="utf-8")
    commands = re.findall(r"(?m)^tfvt records ((?:inspect|verify) OUTPUT.*|index .*)$", text)
    commands = [shlex.split(command) for command in commands]
    assert {command[0] for command in commands} == {"inspect", "verify", "index"}
    for command in commands:
        assert main(command) == 0, f"{command}: {capsys.readouterr().err}"
    assert main(["verify", "DIRECTORY"]) == 0
    assert Path("sheet.png").exists()
