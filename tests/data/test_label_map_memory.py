"""4000 x 6000 pixels and 150 classes, which would take 14 GB, in a process that stays below 3 GB."""

import json
import subprocess
import sys

import pytest

from tests.memory import OWN_PEAK

MEASURE = """
import json, sys
import numpy as np
import tensorflow as tf
from tfvt.data.label_maps import LabelMaps
from tfvt.data.segmentation import SegmentationEvaluation

kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 150)) / 50, tf.float32)
maps = LabelMaps(lambda x: tf.tensordot(x[:, ::4, ::4], kernel, 1), SegmentationEvaluation(**json.loads(sys.argv[1])))
image = tf.constant(np.random.default_rng(0).integers(0, 256, (4000, 6000, 3), np.uint8))
if sys.argv[2] == "graph":
    maps = tf.function(maps, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)], autograph=False)
labels = maps(image).numpy()
assert labels.shape == (4000, 6000) and len(np.unique(labels)) > 5
print(own_peak())
"""
SLIDE = {"mode": "slide"}
ALL_SCALES = {"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "flip": True}


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({}, "eager"),
        pytest.param(SLIDE, "graph", marks=pytest.mark.slow),
        pytest.param({"scales": [0.5, 1.0], "flip": True}, "eager", marks=pytest.mark.slow),
        pytest.param({"scales": [0.5, 1.0], "flip": True}, "graph", marks=pytest.mark.slow),
        pytest.param(SLIDE | {"scales": [0.5, 1.0], "flip": True}, "eager", marks=pytest.mark.slow),
        pytest.param(SLIDE | {"scales": [0.5, 1.0], "flip": True}, "graph", marks=pytest.mark.slow),
        pytest.param(ALL_SCALES | {"scale": [2048, 512]}, "graph", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_large_image_stays_below_3_gigabytes(settings, runs):
    command = [sys.executable, "-c", OWN_PEAK + MEASURE, json.dumps(settings), runs]
    peak = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert peak < 3
