"""A hundred objects of an image of 12 megapixels, whose masks would take 1.2 GB, in little memory."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np

from tests.memory import OWN_PEAK
from tfvt.data.detection import DetectionEvaluation
from tfvt.trainers.tasks.detection_serving import DetectionServing

TRAIN = """
import sys
import numpy as np
import tensorflow as tf
from box_records import box_record, objects_of, one_bit
from record_files import encode
from tfvt.data.detection import DetectionSamples, DetectionTraining
from tfvt.data.records import feature_spec

size, peaks = (3000, 4000), []
image, mask = encode(np.zeros((*size, 3)), "JPEG"), one_bit(np.ones(size))
samples = DetectionSamples(200, 0, DetectionTraining(), masks=True)
for count in (1, 100):
    record = box_record(image, objects_of(size, [(100, 200, 2500, 3900)] * count, masks=[mask] * count))
    features = tf.io.parse_single_example(record, feature_spec(samples.features))
    dataset = tf.data.Dataset.from_tensors(features).map(lambda features: samples.decode(features, tf.constant([1, 2])))
    sample = next(dataset.as_numpy_iterator())
    assert sample["masks"][:count].all() and (sample["labels"] >= 0).sum() == count
    peaks.append(own_peak())
print(peaks[1] - peaks[0])
"""


def test_masks_of_a_training_sample_are_decoded_one_by_one():
    path = [str(Path(__file__).parent), *sys.path]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{OWN_PEAK}{TRAIN}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert float(result.stdout) < 0.15, "GB more than one mask takes"


def test_masks_of_results_are_pasted_one_by_one():
    evaluation = DetectionEvaluation(max_detections=100)
    boxes = np.array([[0, 0, 3000, 4000]] * 2 + [[10 * n, 20 * n, 10 * n + 300, 20 * n + 400] for n in range(98)])
    answer = {
        "boxes": boxes.astype(np.float32),
        "scores": np.ones(100, np.float32),
        "labels": np.zeros(100, np.int32),
        "masks": np.full((100, 28, 28), 0.9, np.float32),
    }
    tracemalloc.start()
    try:
        results = DetectionServing(("cat",), evaluation).results("1", np.zeros((3000, 4000, 3), np.uint8), answer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(results) == 100
    assert peak < 0.12 * 2**30
