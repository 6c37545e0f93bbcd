"""RetinaNets beside each other as in ACmix's Table 5, beside torchvision's, and the detectors' own layers.

python -m benchmarks.detection [pairs] [torchvision] [roi_align] [nms]    (all of them without arguments)

The ratios are of processor time, system time included, of one thread: other jobs on the machine hardly change it. All
is inference of one image or batch, in float32.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

import tfvt
from benchmarks.segmentation import processor_and_wall
from benchmarks.timing import alternate, median_ms, median_ratio
from tfvt.layers.nms import class_nms, greedy_nms
from tfvt.layers.roi_align import box_levels, roi_align
from tfvt.models.detection import detector

PAIRS = (("pvt_small", "acmix_pvt_tiny", 1.3), ("pvt_large", "acmix_pvt_small", 1.8))  # with the paper's ratios
TORCHVISION = {"extra_source": "neck", "extra_relu": True, "whole_anchors": True}  # its first RetinaNet


def pixels(side, batch=1):
    return np.random.default_rng(0).uniform(0, 255, (batch, side, side, 3)).astype("float32")


def compare(calls, rounds, header):
    """Print milliseconds of two calls, how many times as fast the second is, and the same on the wall clock."""
    both = alternate(calls, rounds, processor_and_wall)
    processor, wall = ({name: [s[clock] for s in seconds] for name, seconds in both.items()} for clock in (0, 1))
    slow, fast = calls
    clocks = {"processor": processor, "wall clock": wall}
    ratios = [median_ratio(seconds, slow, fast, f"{header}, {clock}") for clock, seconds in clocks.items()]
    times = " | ".join(f"{median_ms(processor[name]):.1f}" for name in calls)
    print(f"| {header} | {times} | {ratios[0]:.2f}x | {ratios[1]:.2f}x |", flush=True)


def detector_call(name, side, **options):
    """From pixels to boxes."""
    model = tfvt.create_model(name, num_classes=80, input_shape=(side, side, 3), **options)
    whole, images, sizes = detector(model), tf.constant(pixels(side)), tf.constant([[side, side]])
    return tf.function(lambda: whole({"image": images, "size": sizes}, training=False), autograph=False)


def pairs(side=576, rounds=5, **options):
    """Table 5: each PVT beside the ACmix that the paper sets against it, to the boxes."""
    print(f"\nRetinaNet, {side}x{side}, one image, from pixels to boxes\n")
    print("| | paper | first, ms | second, ms | times as fast | wall clock |\n|---|---|---|---|---|---|")
    for slow, fast, paper in PAIRS:
        calls = {name: detector_call(f"retinanet_{name}", side, **options) for name in (slow, fast)}
        compare(calls, rounds, f"`{slow}`, `{fast}` | {paper}x")


def torchvision_call(side, folder, **options):
    """Torchvision's RetinaNet, from pixels to the head's answers, after writing its weights for ours."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.torchvision_on_cpu import torchvision

    torch.set_num_threads(1)
    torch.manual_seed(0)
    build = torchvision.models.detection.retinanet_resnet50_fpn
    model = build(weights=None, weights_backbone=None, num_classes=80, min_size=side, **options).eval()
    save_file(model.state_dict(), folder / "state.safetensors")
    image = torch.tensor(pixels(side)[0]).permute(2, 0, 1).contiguous() / 255

    def infer():
        with torch.inference_mode():
            images, _ = model.transform([image])
            return model.head(list(model.backbone(images.tensors).values()))

    return infer


def torchvision(side=576, rounds=5):
    """The same weights in both, to what the head answers: torchvision's own suppression is compiled for CUDA."""
    print(f"\nRetinaNet over ResNet-50, {side}x{side}, one image, from pixels to the head's answers\n")
    print("| | torchvision, ms | tfvt, ms | times as fast | wall clock |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        theirs = torchvision_call(side, Path(folder))
        options = {"num_classes": 80, "input_shape": (side, side, 3), **TORCHVISION}
        model = tfvt.create_model("retinanet_resnet50", weights=Path(folder) / "state.safetensors", **options)
    images = tf.constant(pixels(side))
    ours = tf.function(lambda: model(images, training=False), autograph=False)
    expected, found = theirs()["cls_logits"].numpy(), ours()["class_logits"].numpy()
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    compare({"torchvision": theirs, "tfvt": ours}, rounds, "ResNet-50")


def random_boxes(number, side, batch=1):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, side * 0.7, (batch, number, 2))
    extent = np.exp(rng.uniform(np.log(8), np.log(side * 0.6), (batch, number, 2)))
    return tf.constant(np.clip(np.concatenate([corner, corner + extent], axis=-1), 0, side), tf.float32)


def every_level(maps, strides, boxes, size):
    """The obvious form: every box on every level, of which one counts."""
    level = box_levels(boxes, len(maps))
    parts = []
    for number, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        own = tf.cast(level == number, tf.float32)[..., None, None, None]
        parts.append(own * roi_align([x], [stride], boxes, size))
    return tf.add_n(parts)


def roi(side=576, number=512, channels=256, rounds=9):
    """One gather of all levels beside one a level."""
    strides = (4, 8, 16, 32)
    maps = [tf.random.stateless_normal((1, side // s, side // s, channels), (0, s)) for s in strides]
    boxes = random_boxes(number, side)
    calls = {
        "every level": tf.function(lambda: every_level(maps, strides, boxes, 7), autograph=False),
        "tfvt": tf.function(lambda: roi_align(maps, strides, boxes, 7), autograph=False),
    }
    np.testing.assert_allclose(calls["every level"](), calls["tfvt"](), atol=1e-3)
    print(f"\nRoIAlign of {number} boxes, 7x7 of {channels} channels, over four maps of {side}x{side} pixels\n")
    print("| | every box on every level, ms | tfvt, ms | times as fast | wall clock |\n|---|---|---|---|---|")
    compare(calls, rounds, "7x7")


def nms(number=1000, classes=80, rounds=9):
    """Ours beside TensorFlow's own operations, which no ONNX file can hold."""
    boxes = random_boxes(number, 576)
    scores = tf.random.stateless_uniform((1, number, classes), (0, 1)) ** 4
    settings = {"score_threshold": 0.05, "iou_threshold": 0.5}

    def combined():
        own = tf.image.combined_non_max_suppression
        return own(boxes[:, :, None], scores, number, 100, iou_threshold=0.5, score_threshold=0.05, clip_boxes=False)

    def single():
        return tf.image.non_max_suppression(boxes[0], tf.linspace(1.0, 0.5, number), number, 0.7)

    alive = tf.ones((1, number), bool)
    classed = {
        "TensorFlow": tf.function(combined, autograph=False),
        "tfvt": tf.function(
            lambda: class_nms(boxes, scores, candidates=1000, max_detections=100, **settings), autograph=False
        ),
    }
    proposals = {
        "TensorFlow": tf.function(single, autograph=False),
        "tfvt": tf.function(lambda: greedy_nms(boxes, alive, 0.7), autograph=False),
    }
    print(f"\nNon-maximum suppression of {number} boxes\n")
    print("| | TensorFlow, ms | tfvt, ms | times as fast | wall clock |\n|---|---|---|---|---|")
    compare(classed, rounds, f"within {classes} classes, 100 stay")
    compare(proposals, rounds, "proposals, without classes")


TABLES = {"pairs": pairs, "torchvision": torchvision, "roi_align": roi, "nms": nms}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for table in sys.argv[1:] or TABLES:
        TABLES[table]()
