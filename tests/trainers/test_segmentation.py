"""The segmentation task: its loss and figures against NumPy, and a run from training to evaluation."""

import csv
import json
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from resumed import check_resume
from small_masks import CLASS_NAMES, TINY, write_small_masks
from small_records import write_small_records

from tfvt.data import open_records
from tfvt.data.records import VOID
from tfvt.data.stream import StreamSettings, image_stream
from tfvt.trainers.cli import main
from tfvt.trainers.engines.by_image import ByImage, gather_exactly
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.segmentation import Segmentation

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """24 training and 7 validation images with masks."""
    return write_small_masks(tmp_path_factory.mktemp("masks"))


def flags(records, *more):
    return [
        "--model.name=fpn_resnet50", f"--model.options={json.dumps(TINY)}", f"--data.records={records}",
        "--data.batch_size=5", "--data.train.image_size=[48,48]", "--data.train.scale=null",
        "--data.train.photometric_distortion=false", "--optimizer.name=adam", "--optimizer.learning_rate=0.01",
        "--schedule.name=poly", *more,
    ]  # fmt: skip


@pytest.fixture
def task(masks):
    return Segmentation(parse_recipe(flags(masks)))


def reference_loss(mask, logits):
    """Pixel by pixel, with void pixels as zeros."""
    total = 0.0
    for label, values in zip(mask.reshape(-1), logits.reshape(-1, logits.shape[-1]), strict=True):
        if label != VOID:
            total += np.log(np.exp(values - values.max()).sum()) + values.max() - values[label]
    return total / mask.size


def random_batch(classes=5):
    mask = RNG.integers(0, classes, (3, 6, 7))
    mask[0, 2:5] = VOID
    mask[2] = VOID
    return mask.astype("int32"), RNG.normal(0, 3, (3, 6, 7, classes)).astype("float32")


def test_the_loss_is_the_mean_over_all_pixels(task):
    mask, logits = random_batch()
    expected = [reference_loss(mask[i], logits[i]) for i in range(3)]
    np.testing.assert_allclose(task.loss(ops.convert_to_tensor(logits), {"mask": mask}, True), expected, rtol=1e-5)
    assert expected[2] == 0
    auxiliary = RNG.normal(size=logits.shape).astype("float32")
    both = task.loss({"logits": logits, "auxiliary": auxiliary}, {"mask": mask}, True)
    expected = [reference_loss(mask[i], logits[i]) + 0.4 * reference_loss(mask[i], auxiliary[i]) for i in range(3)]
    np.testing.assert_allclose(both, expected, rtol=1e-5)


def test_a_batchs_confusion_matrix_counts_pixels_with_a_class_in_images_that_count(task):
    mask, logits = random_batch()
    sums = task.sums(ops.convert_to_tensor(logits), {"mask": mask}, np.array([1.0, 0.0, 1.0], "float32"))
    expected = np.zeros((5, 5))
    for label, answer in zip(mask[0].reshape(-1), logits[0].argmax(-1).reshape(-1), strict=True):
        if label != VOID:
            expected[label, answer] += 1
    np.testing.assert_array_equal(sums["confusion"], expected)


def metrics(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def reference_figures(model, records):
    """MIoU and the others over whole images at their own sizes, counted pixel by pixel."""
    matrix, losses = np.zeros((5, 5), np.int64), []
    for record in tf.data.TFRecordDataset(str(records / "validation-00000-of-00001")):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        image = tf.io.decode_png(features["image/encoded"].bytes_list.value[0]).numpy()
        mask = tf.io.decode_png(features["image/segmentation/class/encoded"].bytes_list.value[0]).numpy()[..., 0]
        logits = np.asarray(model(image[None].astype("float32"), training=False))[0]
        np.add.at(matrix, (mask[mask != VOID], logits.argmax(-1)[mask != VOID]), 1)
        losses.append(reference_loss(mask.astype(int), logits))
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    seen = union > 0
    return matrix, (np.diag(matrix)[seen] / union[seen]).mean(), np.mean(losses)


def test_a_run_learns_resumes_and_is_scored_at_the_masks_own_sizes(masks, tmp_path, capsys):
    whole = tmp_path / "whole"
    given = flags(masks, "--steps=38", "--evaluate_every=20", "--ema_decay=0.8", "--checkpoints.every_steps=3")
    assert main(["train", *given, "--output", str(whole)]) == 0
    rows = metrics(whole)
    assert [int(row["step"]) for row in rows][-2:] == [36, 38]  # the last epoch is a part of one
    assert float(rows[-1]["validation_miou"]) > 0.3  # all ground: 0.15

    check_resume(whole, tmp_path / "parts")

    capsys.readouterr()
    assert main(["evaluate", str(whole)]) == 0
    printed = capsys.readouterr().out
    matrix, miou, loss = reference_figures(keras.models.load_model(whole / "final.keras"), masks)
    assert float(rows[-1]["validation_miou"]) == pytest.approx(miou, abs=1e-6)
    assert float(rows[-1]["validation_loss"]) == pytest.approx(loss, rel=1e-4)
    assert f"mIoU {miou:.2%}" in printed
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()[0] in CLASS_NAMES}
    assert list(lines) == list(CLASS_NAMES)
    assert lines["red"][1:] == [f"{matrix[1, 1] / matrix[1].sum():.2%}", f"{matrix[1].sum() / matrix.sum():.2%}"]
    assert lines["unseen"][1] == "-"  # absent, not 0


class Threads:
    """`Processes` that are threads."""

    def __init__(self, index, shared):
        self.index, self.count, (self.values, self.barrier) = index, 2, shared

    def gather(self, values):
        self.values[self.index] = values
        self.barrier.wait(timeout=60)
        gathered = np.stack(self.values)
        self.barrier.wait(timeout=60)
        return gathered


class FixedEvaluator:
    """An engine's `inference`, of which the answers are the colours."""

    is_chief = True

    def __init__(self, processes):
        self.processes = processes

    def inference(self):
        centres = np.array([(110, 110, 110), (220, 40, 40), (40, 200, 40), (40, 40, 220), (0, 0, 0)])
        return lambda images: -np.abs(np.asarray(images)[:, ::4, ::4, None] - centres).sum(-1).astype("float32") / 50


def evaluate_in(processes, task, results):
    task.input_size = (None, None)
    evaluator = ByImage(FixedEvaluator(processes), task)
    evaluator.reset_sums("validation")
    batches = evaluator.eval_batches(
        lambda share: image_stream(task.validation_records, task.samples(False), StreamSettings(4), share)
    )
    for batch in batches:
        evaluator.eval_step(batch)
    results[processes.index] = evaluator.read_sums("validation")


def test_two_processes_share_an_odd_number_of_images_and_have_the_sums_of_one(task):
    shared, results = ([None, None], threading.Barrier(2)), {}
    threads = [threading.Thread(target=evaluate_in, args=(Threads(i, shared), task, results)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)

    class Alone:
        index, count = 0, 1

        def gather(self, values):
            return np.asarray(values)[None]

    alone = {}
    evaluate_in(Alone(), task, alone)
    assert results[0]["images"] == alone[0]["images"] == 7
    assert alone[0]["confusion"].sum() > 0.8 * 7 * 40 * 40
    for index in (0, 1):
        np.testing.assert_array_equal(results[index]["confusion"], alone[0]["confusion"])
        assert results[index]["loss"] == pytest.approx(float(alone[0]["loss"]), rel=1e-12)


@pytest.mark.parametrize("value", [2.0**53, np.pi, -0.0, 1e300])
def test_what_processes_exchange_is_exact(value):
    shared, gathered = ([None, None], threading.Barrier(2)), {}

    def exchange(index):
        gathered[index] = gather_exactly(Threads(index, shared), np.array([value, index]))

    threads = [threading.Thread(target=exchange, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for index in (0, 1):
        assert gathered[index].tobytes() == np.array([[value, 0], [value, 1]]).tobytes()


def test_records_of_another_task_are_refused_before_training(masks, tmp_path, capsys):
    classes = write_small_records(tmp_path / "classes")
    assert main(["train", *flags(classes, "--steps=2"), "--output", str(tmp_path / "a")]) == 2
    assert "holds images with classes and without masks" in capsys.readouterr().err
    given = ["--model.name=resnet18", f"--data.records={masks}", "--epochs=1", "--data.batch_size=5"]
    assert main(["train", *given, "--output", str(tmp_path / "b")]) == 2
    assert "holds images with masks and without classes" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_the_records_are_what_the_task_reads(masks):
    assert open_records(masks, "train").num_classes == len(CLASS_NAMES)
