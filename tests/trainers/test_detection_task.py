"""The detection task: its loss against NumPy, and a run from training to evaluation."""

import csv
import json
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from resumed import check_resume
from small_boxes import CLASS_NAMES, TINY, TINY_MASKS, write_small_boxes
from small_records import write_small_records
from test_segmentation import Threads

from tfvt.models.detection import DetectionSettings, detector
from tfvt.trainers.cli import main
from tfvt.trainers.engines.by_image import gather_arrays
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.average_precision import average_precision
from tfvt.trainers.tasks.detection import Detection

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """24 training and 7 validation images with boxes."""
    return write_small_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """16 training and 3 validation images with boxes and masks."""
    return write_small_boxes(tmp_path_factory.mktemp("masks"), train=16, validation=3, masks=True)


def flags(records, *more):
    return [
        "--model.name=retinanet_resnet50", f"--model.options={json.dumps(TINY)}", f"--data.records={records}",
        "--data.batch_size=4", "--data.train.image_size=[96,96]", "--data.train.short_sides=[64]",
        "--data.train.max_long_side=96", "--data.train.max_boxes=5", "--data.evaluation.short_side=64",
        "--data.evaluation.max_long_side=96", "--optimizer.name=adamw", "--optimizer.learning_rate=0.002",
        "--schedule.name=cosine", *more,
    ]  # fmt: skip


def iou(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(height, 0) * max(width, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def reference_sums(logits, deltas, anchors, boxes, labels):
    """Of one image without crowds: focal loss, L1 loss, and the number of positive anchors, anchor by anchor."""
    real = [number for number, label in enumerate(labels) if label >= 0]
    overlaps = np.array([[iou(anchor, boxes[number]) for number in real] for anchor in anchors])
    best = overlaps.max(0) if real else []
    focal = distance = positives = 0
    for anchor, row, scores, found in zip(anchors, overlaps, logits, deltas, strict=True):
        place = int(row.argmax()) if real else -1
        is_positive = bool(real) and row[place] >= 0.5
        for number in range(len(real)):  # a box takes its best anchors, the last of several boxes
            if row[number] > 0 and row[number] >= best[number] * (1 - 1e-5):
                is_positive, place = True, number
        if not is_positive and real and row[place] >= 0.4:
            continue
        wanted = labels[real[place]] if is_positive else -1
        for label, score in enumerate(scores):
            p = 1 / (1 + np.exp(-score))
            focal -= 0.25 * (1 - p) ** 2 * np.log(p) if label == wanted else 0.75 * p**2 * np.log(1 - p)
        if is_positive:
            positives += 1
            y1, x1, y2, x2 = boxes[real[place]]
            ay, ax, ah, aw = anchor[0], anchor[1], anchor[2] - anchor[0], anchor[3] - anchor[1]
            code = ((y1 + y2) / 2 - ay - ah / 2) / ah, ((x1 + x2) / 2 - ax - aw / 2) / aw
            code = (*code, np.log((y2 - y1) / ah), np.log((x2 - x1) / aw))
            distance += np.abs(np.array(code) - found).sum()
    return focal, distance, positives


def random_outputs(images=4, anchors=150, classes=4):
    corners = RNG.uniform(0, 60, (1, anchors, 2))
    anchors_ = np.concatenate([corners, corners + RNG.uniform(10, 30, (1, anchors, 2))], -1).repeat(images, 0)
    return {
        "class_logits": RNG.normal(0, 2, (images, anchors, classes)).astype("float32"),
        "box_deltas": RNG.normal(0, 1, (images, anchors, 4)).astype("float32"),
        "anchors": anchors_.astype("float32"),
    }


def random_truth(images=4, slots=3, classes=4):
    corners = RNG.uniform(0, 60, (images, slots, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(12, 28, (images, slots, 2))], -1).astype("float32")
    labels = RNG.integers(0, classes, (images, slots)).astype("int32")
    labels[0, 2] = labels[2] = -1
    boxes[labels < 0] = 0
    crowd, is_empty = np.zeros((images, slots), bool), np.array([False, False, True, False])
    return {"boxes": boxes, "labels": labels, "crowd": crowd, "is_empty": is_empty}


def test_a_set_without_objects_has_no_average_precision(boxes):
    row = {
        "size": np.array([64, 96]), "true_boxes": np.zeros((0, 4)), "true_labels": np.zeros(0, int),
        "true_crowd": np.zeros(0, bool), "true_area": np.zeros(0),
        "boxes": np.array([[1.0, 2, 30, 40]]), "scores": np.array([0.9]), "labels": np.array([1]),
    }  # fmt: skip
    task = Detection(parse_recipe(flags(boxes)))
    assert task.summary(task.figures({}, [row])) == "AP -, AP50 -, AP75 -"
    assert task.table({}, [row]).rows == tuple((name, "-", "0") for name in CLASS_NAMES)


@pytest.mark.parametrize("keep_empty", [False, True])
def test_the_loss_is_divided_by_the_positives_of_the_whole_batch(boxes, keep_empty):
    """Image 2 has no object, image 3 is damaged: it counts nowhere."""
    task = Detection(parse_recipe(flags(boxes, f"--data.train.keep_empty={json.dumps(keep_empty)}")))
    outputs, truth = random_outputs(), random_truth()
    weights = np.array([1, 1, 1, 0], "float32")
    truth["size"] = np.array([[96, 96], [90, 64], [64, 70], [96, 96]], "int32")
    centres = (outputs["anchors"][..., :2] + outputs["anchors"][..., 2:]) / 2
    inside = (centres < (-(-truth["size"] // 32) * 32)[:, None]).all(-1)  # the rest is the canvas alone
    assert (~inside[2]).sum() > 0
    sums = np.array(
        [
            reference_sums(*(outputs[name][i][inside[i]] for name in outputs), truth["boxes"][i], truth["labels"][i])
            for i in range(4)
        ]
    )
    if not keep_empty:
        sums[2] = 0
    assert sums[2, 0] > 0 or not keep_empty
    positives = (weights @ sums)[2]
    assert positives > 5
    found = task.loss(
        {name: ops.convert_to_tensor(value) for name, value in outputs.items()}, truth | {"weight": weights}, True
    )
    for place, name in enumerate(("class_loss", "box_loss")):
        np.testing.assert_allclose(np.asarray(found[name])[:3], 4 * sums[:3, place] / positives, rtol=1e-4)


def metrics(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def reference_figures(model, records):
    """Images at 64 pixels' shorter side, padded to multiples of 32; boxes back in their own pixels."""
    found, rows = detector(model, DetectionSettings()), []
    for serialized in tf.data.TFRecordDataset(str(records / "validation-00000-of-00001")):
        features = tf.train.Example.FromString(serialized.numpy()).features.feature
        image = tf.io.decode_png(features["image/encoded"].bytes_list.value[0]).numpy()
        own = np.array(image.shape[:2])
        factor = min(64 / own.min(), 96 / own.max())
        size = np.floor(own * factor + 0.5).astype(int)
        shown = np.tile(np.array([123.675, 116.28, 103.53], "float32"), (*(-(-size // 32) * 32), 1))
        shown[: size[0], : size[1]] = tf.image.resize(image, size).numpy()
        answer = found({"image": shown[None], "size": size[None].astype("int32")}, training=False)
        boxes, scores, labels = (np.asarray(answer[name])[0] for name in ("boxes", "scores", "labels"))
        corners = [features[f"image/object/bbox/{name}"].float_list.value for name in ("ymin", "xmin", "ymax", "xmax")]
        true = np.array(corners, np.float32).reshape(4, -1).T * np.tile(own, 2)
        rows.append(
            {
                "size": own,
                "true_boxes": true,
                "true_labels": np.array(features["image/object/class/label"].int64_list.value, int),
                "true_crowd": np.array(features["image/object/is_crowd"].int64_list.value, bool),
                "true_area": np.array(features["image/object/area"].float_list.value),
                "boxes": (boxes * np.tile(own / size, 2))[labels >= 0],
                "scores": scores[labels >= 0],
                "labels": labels[labels >= 0],
            }
        )
    return average_precision(rows, len(CLASS_NAMES))


def test_a_run_learns_resumes_and_is_scored_in_the_images_own_pixels(boxes, tmp_path, capsys):
    whole = tmp_path / "whole"
    given = flags(boxes, "--steps=63", "--evaluate_every=30", "--ema_decay=0.8", "--checkpoints.every_steps=4")
    assert main(["train", *given, "--output", str(whole)]) == 0
    rows = metrics(whole)
    assert [int(row["step"]) for row in rows][-2:] == [60, 63]
    assert float(rows[-1]["train_loss"]) < 0.5 * float(rows[0]["train_loss"])
    parts_of_loss = [float(rows[-1][f"train_{name}"]) for name in ("class_loss", "box_loss")]
    assert float(rows[-1]["train_loss"]) == pytest.approx(sum(parts_of_loss), rel=1e-4)
    assert rows[-1]["train_skipped"] == "0"  # an image without objects is not damaged
    assert rows[-1]["validation_loss"] == rows[-1]["train_ap"] == ""

    check_resume(whole, tmp_path / "parts")

    capsys.readouterr()
    assert main(["evaluate", str(whole)]) == 0
    printed = capsys.readouterr().out
    expected = reference_figures(keras.models.load_model(whole / "final.keras"), boxes)
    assert expected.figures["ap50"] > 0.2
    for name, value in expected.figures.items():
        assert float(rows[-1][f"validation_{name}"]) == pytest.approx(value, abs=1e-5, nan_ok=True)
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()[0] in CLASS_NAMES}
    assert lines["red"][0] == f"{expected.by_class[0]:.2%}"
    assert lines["unseen"] == ["-", "0"]


@pytest.mark.parametrize("cascade", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_mask_rcnn_learns_boxes_and_masks_and_resumes(cascade, masks, tmp_path, capsys):
    name = "cascade_mask_rcnn_swin_tiny" if cascade else "mask_rcnn_swin_tiny"
    given = flags(masks, f"--model.name={name}", f"--model.options={json.dumps(TINY_MASKS)}", "--steps=7")
    given += ["--checkpoints.every_steps=3", "--evaluate_every=9"]
    whole = tmp_path / "whole"
    assert main(["train", *given, "--output", str(whole)]) == 0
    rows = metrics(whole)
    row = rows[-1]
    names = ("rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")
    losses = {name: float(row[f"train_{name}"]) for name in names}
    assert float(row["train_loss"]) == pytest.approx(sum(losses.values()), rel=1e-4)
    stages = 1 + 0.5 + 0.25 if cascade else 1
    chance = stages * np.log(2)  # every pixel at one half; the first answers are surer than that
    assert 3 * chance > float(rows[0]["train_mask_loss"]) > losses["mask_loss"] > chance / 2
    assert 0 < losses["class_loss"] < stages * np.log(5) * 1.2
    assert 0 <= float(row["validation_mask_ap50"]) <= 1

    check_resume(whole, tmp_path / "parts")
    capsys.readouterr()
    assert main(["evaluate", str(whole)]) == 0
    assert "of masks" in capsys.readouterr().out


def test_rows_of_different_lengths_pass_between_processes():
    shared, gathered = ([None, None], threading.Barrier(2)), {}
    own = [np.arange(6, dtype=np.float32).reshape(3, 2), np.full((1, 2), 0.1, np.float32)]

    def exchange(index):
        gathered[index] = gather_arrays(Threads(index, shared), own[index])

    threads = [threading.Thread(target=exchange, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for found in gathered.values():
        assert [part.tobytes() for part in found] == [part.tobytes() for part in own]
        assert [(part.dtype, part.shape) for part in found] == [(part.dtype, part.shape) for part in own]
    assert len(gathered) == 2


def test_records_of_another_task_are_refused_before_training(boxes, tmp_path, capsys):
    classes = write_small_records(tmp_path / "classes")
    assert main(["train", *flags(classes, "--steps=2"), "--output", str(tmp_path / "a")]) == 2
    assert "holds images with classes and without boxes" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
