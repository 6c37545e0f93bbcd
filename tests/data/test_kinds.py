"""A set of the wrong kind is refused by its first record, before anything starts."""

import pytest
import tensorflow as tf
from mask_records import pair, scene, write_masks
from record_files import record, write_records

from tfvt.data.kinds import check_kind
from tfvt.data.records import BOX_LABEL, BOX_MASK, OBJECT_LISTS, UNLABELLED, open_records
from tfvt.errors import UsageError

NO_OBJECTS = dict.fromkeys(OBJECT_LISTS, ())
BOXES = {BOX_LABEL: (2,)}


def write_objects(directory, objects):
    """Two images with objects and without a class."""
    replaced = {number: record(number, label=UNLABELLED, objects=objects) for number in range(2)}
    return write_records(directory, (0, 2), replaced=replaced)


def test_each_kind_is_what_its_task_gets_and_others_do_not(tmp_path):
    sets = {
        "classes": write_records(tmp_path / "classes", (0, 3)),
        "masks": write_masks(tmp_path / "masks", (0, 3)),
        "boxes": write_objects(tmp_path / "boxes", BOXES),
    }
    for held, records in sets.items():
        check_kind(records, held)
        for wanted in set(sets) - {held}:
            with pytest.raises(
                UsageError, match=rf"^{tmp_path}/{held} holds images with {held} and without {wanted}, "
            ) as raised:
                check_kind(records, wanted)
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("classes", r"classification needs a class for each: convert class folders .*choose a model .*`tfvt models`"),
        ("masks", r"segmentation needs a mask for each: convert images with masks .*--layout"),
        ("instance masks", r"this model needs a mask for each box: convert COCO's polygons or RLE .*--format coco"),
    ],
)
def test_the_message_says_what_to_convert(tmp_path, wanted, message):
    with pytest.raises(UsageError, match=message):
        check_kind(write_objects(tmp_path, BOXES), wanted)
    with pytest.raises(UsageError, match=r"detection needs boxes: convert images with boxes .*--format coco"):
        check_kind(write_records(tmp_path / "classes", (1,)), "boxes")


def test_an_image_without_objects_is_of_its_set_s_kinds(tmp_path):
    without, with_masks = ({name: () for name in NO_OBJECTS if masks or name != BOX_MASK} for masks in (False, True))
    check_kind(write_objects(tmp_path / "boxes", without), "boxes")
    check_kind(write_objects(tmp_path / "masks", with_masks), "instance masks")
    with pytest.raises(UsageError, match="holds images with boxes and without instance masks"):
        check_kind(open_records(tmp_path / "boxes", "train"), "instance masks")


def test_masks_with_classes_serve_both_tasks_and_other_records_are_left_to_the_stream(tmp_path):
    example = tf.train.Example.FromString(pair(*scene(4)))
    example.features.feature["image/class/label"].int64_list.value[:] = [1]
    both = write_records(tmp_path / "both", (1,), replaced={0: example.SerializeToString()})
    for wanted in ("classes", "masks"):
        check_kind(both, wanted)
        check_kind(write_records(tmp_path / "empty", (0,)), wanted)
        check_kind(write_records(tmp_path / "strange", (1,), replaced={0: b"\n\x00"}), "classes")
        check_kind(write_records(tmp_path / "no example", (1,), replaced={0: b"\xff"}), wanted)
    damaged = write_records(tmp_path / "damaged", (1,))
    shard = tmp_path / "damaged" / "train-00000-of-00001"
    shard.write_bytes(b"x" * shard.stat().st_size)
    check_kind(open_records(damaged.directory, "train"), "masks")
    assert record(0) not in shard.read_bytes()
