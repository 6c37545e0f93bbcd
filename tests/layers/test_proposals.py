"""Proposals, what the second stage reads of them, and the losses of both stages, each against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.box_sets import iou, on_arrays
from tfvt.layers.proposals import ProposalLosses, Proposals, TrueSizes
from tfvt.layers.roi_align import RoIAlign
from tfvt.layers.roi_heads import BoxLosses, MaskLosses, RoIConv2D, RoIConv2DTranspose, mask_targets
from tfvt.layers.rois import MaskProbabilities, ProposalSamples, RefinedProposals, RoIDetections

MAPS = [(6, 8), (3, 4)]
SIZES = np.array([[24, 32], [17, 32]], "int32")
BOXES = np.array([[[2, 3, 14, 15], [5, 9, 24, 31], [0, 0, 0, 0]], [[1, 1, 9, 20], [0, 16, 16, 32], [3, 3, 9, 9]]])
BOXES = BOXES.astype("float32")
LABELS, CROWD = np.array([[1, 0, -1], [0, 1, 1]], "int32"), np.array([[0, 0, 0], [0, 1, 0]], bool)
SEEDS = np.array([[1, 2], [3, 4]], "int32")
STD = np.array([0.1, 0.1, 0.2, 0.2])


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def anchors():
    """One of 12 pixels a side around every second pixel of the first map, one of 20 for the second."""
    levels = []
    for (rows, columns), stride, side in zip(MAPS, (4, 8), (12, 20), strict=True):
        y, x = np.mgrid[:rows, :columns] * stride
        levels.append(np.stack([y - side / 2, x - side / 2, y + side / 2, x + side / 2], axis=-1).reshape(-1, 4))
    return np.repeat(np.concatenate(levels)[None], 2, axis=0).astype("float32")


def decoded(delta, box, std=(1, 1, 1, 1)):
    delta, side = delta.astype("float64") * std, box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + delta[:2] * side
    side = side * np.exp(np.clip(delta[2:], -np.log(62.5), np.log(62.5)))
    return np.concatenate([centre - side / 2, centre + side / 2])


def encoded(box, anchor, std=(1, 1, 1, 1)):
    side, anchor_side = box[2:] - box[:2], anchor[2:] - anchor[:2]
    shift = (box[:2] + box[2:] - anchor[:2] - anchor[2:]) / 2 / anchor_side
    return np.concatenate([shift, np.log(side / anchor_side)]) / std


def aligned_points(box, size):
    """Rows and columns of the points of RoIAlign, two in a cell along a side, in places of pixels."""
    steps = (np.arange(2 * size) + 0.5) / (2 * size)
    return [box[axis] + (box[axis + 2] - box[axis]) * steps - 0.5 for axis in range(2)]


def bilinear_map(x, rows, columns):
    """Of a map (H, W) at all pairs of rows and columns; zero outside."""
    x = np.pad(x.astype("float64"), 1)
    rows, columns = (np.clip(at + 1, 0, side - 1.001) for at, side in zip((rows, columns), x.shape, strict=True))
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None], columns - left
    upper = x[np.ix_(top, left)] * (1 - right) + x[np.ix_(top, left + 1)] * right
    lower = x[np.ix_(top + 1, left)] * (1 - right) + x[np.ix_(top + 1, left + 1)] * right
    return upper * (1 - down) + lower * down


def clipped(box, size):
    return np.clip(box, 0, [*size, *size])


def test_true_sizes():
    images = np.zeros((2, 24, 32, 3), "float32")
    np.testing.assert_array_equal(on_arrays(TrueSizes())(images), [[24, 32]] * 2)
    np.testing.assert_array_equal(on_arrays(TrueSizes())(images, SIZES), SIZES)


@pytest.mark.parametrize("training", [True, False])
def test_proposals(training):
    """The best of each level, without what overlaps a better one of the same level or lies in the padding."""
    logits, deltas = random(2, 60, 1), random(2, 60, 4, seed=1) * 0.3
    layer = Proposals(1, 10, 9, 14, 20, 0.4)

    def call(size, *of_anchors):
        return layer([np.zeros((2, *side, 1), "float32") for side in MAPS], size, *of_anchors, training=training)

    found = on_arrays(call)(SIZES, logits, deltas, anchors())
    candidates, number = (14, 20) if training else (10, 9)
    for image in range(2):
        kept = []
        for level in (range(48), range(48, 60)):
            best, of_level = sorted(level, key=lambda a: -logits[image, a, 0])[:candidates], []
            for a in best:
                box = clipped(decoded(deltas[image, a], anchors()[image, a]), SIZES[image])
                real = (box[2:] - box[:2] >= 1e-3).all()
                if real and all(iou(box, other) <= 0.4 for _, other in of_level):
                    of_level.append((logits[image, a, 0], box))
            kept += of_level
        kept = sorted(kept, key=lambda pair: -pair[0])[:number]
        assert len(kept) > 3
        expected = [1 / (1 + np.exp(-logit)) for logit, _ in kept] + [-1] * (number - len(kept))
        np.testing.assert_allclose(found["scores"][image], expected, rtol=1e-5)
        np.testing.assert_allclose(found["boxes"][image][: len(kept)], [box for _, box in kept], atol=1e-4)


def entropy(logit, truth):
    p = 1 / (1 + np.exp(-np.float64(logit)))
    return -np.log(p if truth else 1 - p)


def smooth(error, beta):
    error = np.abs(error)
    return np.where(error < beta, error**2 / (2 * beta), error - beta / 2).sum() if beta else error.sum()


@pytest.mark.parametrize(("beta", "least"), [(0.0, 0.3), (1 / 9, 0.0)])
def test_losses_of_proposals(beta, least):
    """With so many draws that every anchor of a state is drawn: without those in the padding, at crowds, in between.

    All is four times as large, so that there is padding below a multiple of 32. A box of two pixels has no anchor that
    overlaps it by 0.3.
    """
    sizes, anchors_, boxes = np.array([[96, 128], [63, 128]], "int32"), 4 * anchors(), 4 * BOXES
    boxes[0, 2], labels = [40, 40, 42, 42], np.array([[1, 0, 0], [0, 1, 1]], "int32")
    logits, deltas = random(2, 60, 1), random(2, 60, 4, seed=1)
    losses = on_arrays(ProposalLosses(120, 0.5, 0.5, 0.3, beta=beta, least_best=least))
    found = losses(sizes, logits, deltas, anchors_, boxes, labels, CROWD, SEEDS)
    for image in range(2):
        real = [n for n in range(3) if labels[image, n] >= 0 and not CROWD[image, n]]
        overlaps = np.array([[iou(boxes[image, n], a) for a in anchors_[image]] for n in real])
        expected = {"class": 0, "box": 0, "count": 0}
        for a, anchor in enumerate(anchors_[image]):
            if not ((anchor[:2] + anchor[2:]) / 2 < [(96, 128), (64, 128)][image]).all():
                continue
            top = overlaps.max(1)
            own = [n for n in range(len(real)) if top[n] >= max(least, 1e-9) and overlaps[n, a] >= top[n] * (1 - 1e-5)]
            crowded = False
            for crowd in boxes[image][CROWD[image]]:
                shared = np.clip(np.minimum(crowd[2:], anchor[2:]) - np.maximum(crowd[:2], anchor[:2]), 0, None)
                crowded |= np.prod(shared) >= 0.5 * np.prod(anchor[2:] - anchor[:2])
            if own or overlaps[:, a].max() >= 0.5:
                box = boxes[image, real[own[-1] if own else overlaps[:, a].argmax()]]
                expected["class"] += entropy(logits[image, a, 0], True)
                expected["box"] += smooth(deltas[image, a] - encoded(box, anchor), beta)
                expected["count"] += 1
            elif overlaps[:, a].max() < 0.3 and not crowded:
                expected["class"] += entropy(logits[image, a, 0], False)
                expected["count"] += 1
        assert 5 < expected["count"] < 60
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][image], value, rtol=1e-4)


def test_without_the_truth_there_is_no_loss():
    for value in on_arrays(ProposalLosses())(SIZES, random(2, 60, 1), random(2, 60, 4), anchors()).values():
        np.testing.assert_array_equal(value, [0, 0])


def test_a_sample_holds_what_it_says():
    """Positives overlap their box, the true boxes are among them, crowds and empty slots are not."""
    proposals = anchors()
    scores = np.where(np.arange(60) % 7, 0.5, -1) * np.ones((2, 1), "float32")
    for first in (False, True):
        layer = ProposalSamples(2, 24, 0.25, 0.5, background_first=first)
        found = on_arrays(layer)(proposals, scores.astype("float32"), BOXES, LABELS, CROWD, SEEDS)
        for image in range(2):
            states, count = found["states"][image], np.sum(found["states"][image] == 1)
            assert 0 < count <= 6
            assert (states[:count] == 1).all()
            assert (states[count:] == 0).all()
            for place, box in enumerate(found["proposals"][image]):
                overlaps = [iou(box, true) if LABELS[image, n] >= 0 else -1 for n, true in enumerate(BOXES[image])]
                overlaps = np.where(CROWD[image], -1, overlaps)
                if states[place] == 1:
                    best = int(np.argmax(overlaps))
                    assert overlaps[best] >= 0.5
                    assert found["matched"][image, place] == best
                    assert found["classes"][image, place] == LABELS[image, best] + first
                    target = encoded(BOXES[image, best].astype("float64"), box, STD)
                    np.testing.assert_allclose(found["targets"][image, place], target, atol=1e-4)
                else:
                    assert max(overlaps) < 0.5
                    assert found["classes"][image, place] == (0 if first else 2)
                is_true = any((box == BOXES[image, n]).all() for n in np.flatnonzero(overlaps > -1))
                assert found["true"][image, place] == is_true
    assert (found["true"] == 1).sum() >= 2


@pytest.mark.parametrize("reassign", [True, False])
def test_the_best_proposal_of_a_box_belongs_to_it(reassign):
    """Where it overlaps another box more; none is positive by less than the overlap, true boxes are their own."""
    boxes = [[0, 0, 10, 10], [0, 3, 10, 13], [20, 20, 30, 30], [0, 0, 10, 10]]
    close, between, far, free = [0, 0, 10, 9.5], [0, 1, 10, 11], [20, 20, 24, 30], [40, 40, 50, 50]
    given = np.array([close, between, far, free, free], "float32")[None]
    scores = np.array([[0.9, 0.8, 0.7, 0.6, -1]], "float32")
    truth = np.array([boxes], "float32"), np.array([[0, 1, 0, 1]], "int32"), np.zeros((1, 4), bool), SEEDS[:1]
    found = on_arrays(ProposalSamples(2, 32, reassign_best=reassign))(given, scores, *truth)
    names = [str(box) for box in found["proposals"][0].tolist()]
    rows = [
        (name, matched)
        for name, matched, state in zip(names, found["matched"][0].tolist(), found["states"][0], strict=True)
        if state == 1
    ]
    own = [(str(np.array(box, float).tolist()), n) for n, box in enumerate(boxes)]
    # 0.95 of the first box and of its equal, which the later one gets; 9/11 of those and 8/12 of the second.
    best = [(close, 3), (between, 1)] if reassign else [(close, 0), (between, 0)]
    assert sorted(rows) == sorted(own + [(str(np.array(box, float).tolist()), n) for box, n in best])
    assert [name for name, state in zip(names, found["states"][0], strict=True) if state == 0] == [
        str(np.array(box, float).tolist()) for box in (far, free)
    ]


def test_without_the_truth_all_proposals_are_read():
    scores = np.array([[0.9, 0.2, -1.0]], "float32")
    found = on_arrays(ProposalSamples(2))(BOXES[:1], scores)
    np.testing.assert_array_equal(found["proposals"], BOXES[:1])
    np.testing.assert_array_equal(found["states"], [[0, 0, -1]])


@pytest.mark.parametrize("first", [False, True])
def test_detections(first):
    """One box for each class, by soft-max, within the image; none of an empty slot."""
    proposals, states = anchors()[:, :9], np.where(np.arange(9) < 7, 0, -1) * np.ones((2, 1), "int32")
    logits, deltas = random(2, 9, 4) * 2, random(2, 9, 3 + first, 4, seed=1)
    layer = RoIDetections(STD.tolist(), first, 0.1, 0.3, 30, 8)
    found = on_arrays(layer)(SIZES, proposals, states.astype("int32"), logits, deltas)
    for image in range(2):
        pairs = []
        for row, label in np.ndindex(7, 3):
            odds = np.exp(logits[image, row].astype("float64"))
            score = odds[label + first] / odds.sum()
            box = decoded(deltas[image, row, label + first], proposals[image, row], STD)
            pairs.append((score, label, clipped(box, SIZES[image])))
        kept = []
        for score, label, box in sorted(pairs, key=lambda pair: -pair[0]):
            overlaps = [iou(box, other) for _, own, other in kept if own == label]
            if score > 0.1 and max(overlaps, default=0) <= 0.3:
                kept.append((score, label, box))
        kept = kept[:8]
        assert len(kept) > 3
        np.testing.assert_array_equal(found["labels"][image], [k[1] for k in kept] + [-1] * (8 - len(kept)))
        np.testing.assert_allclose(found["scores"][image][: len(kept)], [k[0] for k in kept], rtol=1e-4)
        np.testing.assert_allclose(found["boxes"][image][: len(kept)], [k[2] for k in kept], atol=1e-3)
    empty = on_arrays(layer)(SIZES, proposals, states.astype("int32"), logits, deltas, BOXES)
    assert (empty["labels"] == -1).all()


@pytest.mark.parametrize("first", [False, True])
def test_refined_proposals(first):
    """By the true class of positives and the likeliest of the others; true boxes and empty slots fall away."""
    proposals, states = anchors()[:, :4], np.array([[1, 0, 1, -1], [0, 0, 0, 0]], "int32")
    classes = np.array([[first + 1, 0, first, 0], [0] * 4], "int32")
    true = np.array([[0, 0, 1, 0], [0, 0, 0, 0]], "int32")
    logits, deltas = random(2, 4, 4), random(2, 4, 3 + first, 4, seed=1)
    given = SIZES, proposals, states, classes, true, logits, deltas
    found = on_arrays(RefinedProposals(STD.tolist(), first))(*given)
    np.testing.assert_array_equal(found["scores"], [[0, 0, -1, -1], [0, 0, 0, 0]])
    for image, row in np.ndindex(2, 4):
        likeliest = np.argmax(logits[image, row, first : 3 + first]) + first
        chosen = classes[image, row] if states[image, row] == 1 else likeliest
        box = clipped(decoded(deltas[image, row, chosen], proposals[image, row], STD), SIZES[image])
        np.testing.assert_allclose(found["boxes"][image, row], box, atol=1e-3)


def generalized(a, b):
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    around = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return 1 - shared / union + (around - union) / around


@pytest.mark.parametrize(("box", "beta"), [("l1", 0.0), ("l1", 1 / 9), ("giou", 0.0)])
def test_losses_of_boxes(box, beta):
    proposals, states = anchors()[:, :4], np.array([[1, 0, 1, -1], [0, 0, 0, 0]], "int32")
    classes, targets = np.array([[2, 3, 0, 1], [3] * 4], "int32"), random(2, 4, 4, seed=2)
    logits, deltas = random(2, 4, 4), random(2, 4, 3, 4, seed=1)
    layer = BoxLosses(box, beta, STD.tolist(), class_weight=0.5, box_weight=2.0)
    found = on_arrays(layer)(logits, deltas, proposals, states, classes, targets, BOXES)
    expected = np.zeros((2, 2))
    for image, row in np.ndindex(2, 4):
        own, chosen = logits[image, row].astype("float64"), classes[image, row]
        expected[0, image] += 0.5 * (states[image, row] >= 0) * (np.log(np.exp(own).sum()) - own[chosen])
        if states[image, row] == 1:
            pair = deltas[image, row, chosen], targets[image, row]
            if box == "giou":
                distance = generalized(*(decoded(delta, proposals[image, row], STD) for delta in pair))
            else:
                distance = smooth(pair[0] - pair[1], beta)
            expected[1, image] += 2 * distance
    np.testing.assert_allclose([found["class"], found["box"]], expected, rtol=1e-4)
    np.testing.assert_array_equal(found["count"], [3, 4])
    given = logits, deltas, proposals, states, classes, targets
    for value in on_arrays(layer)(*given).values():
        np.testing.assert_array_equal(value, [0, 0])


def test_targets_of_masks():
    """The box's own region gives its mask, smaller; half of it gives half; outside of the box is nothing."""
    mask = np.zeros((16, 16), "uint8")
    mask[:8] = 1  # the upper half
    boxes = np.array([[[10, 20, 26, 36]] * 4], "float32")
    rois = np.array([[[10, 20, 26, 36], [10, 20, 18, 36], [2, 20, 18, 36], [10, 36, 26, 52]]], "float32")
    found = on_arrays(mask_targets, size=4)(rois, boxes, np.stack([[mask] * 4]))[0]
    upper = np.repeat([[1], [1], [0], [0]], 4, axis=1)
    np.testing.assert_allclose(found, [upper, upper * 0 + 1, 1 - upper, upper * 0], atol=1e-6)


def test_targets_of_masks_kept_at_112_pixels_are_those_of_the_image():
    """Of round objects and of boxes beside them: few cells change their side of one half."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:360, :360] + 0.5
    kept, boxes, rois, expected = [], [], [], []
    for side in (20, 40, 80, 160, 320):
        for _ in range(8):
            angle = np.arctan2(y - 180, x - 180)
            waves = sum(rng.normal(0, 0.12) * np.cos(n * angle + rng.uniform(0, 6)) for n in (2, 3, 5))
            mask = np.hypot(y - 180, x - 180) < side / 2 * (0.8 + waves)
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            box = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], "float32")
            boxes.append(box)
            near = ((np.arange(112) + 0.5) / 112 * (end - start) + start for start, end in (box[::2], box[1::2]))
            kept.append(mask[np.ix_(*(at.astype(int) for at in near))])
            rois.append(box + rng.uniform(-0.1, 0.1, 4) * side)
            # Where mmdetection reads: points of the image's own pixels, two in a cell.
            points = aligned_points(rois[-1], 28)
            expected.append(bilinear_map(mask, *points).reshape(28, 2, 28, 2).mean(axis=(1, 3)) >= 0.5)
    given = np.array(rois, "float32")[None], np.array(boxes)[None], np.array(kept, "uint8")[None]
    found = on_arrays(mask_targets, size=28)(*given)[0] >= 0.5
    different = (found != np.array(expected)).mean(axis=(1, 2)).reshape(5, 8).mean(axis=1)
    assert (different < 0.02).all(), different
    assert 0.3 < np.mean(expected) < 0.8


@pytest.mark.parametrize("binary", [True, False])
def test_losses_of_masks(binary):
    """Of positives alone, by their true class, against the mask that they cover."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (2, 3, 8, 8)).astype("uint8")
    masks[..., ::2, ::2] = masks[..., 1::2, 1::2] = masks[..., ::2, 1::2]  # no cell is covered by half
    states, matched = np.array([[1, 1, 0, 0], [1, -1, 0, 0]], "int32"), np.array([[1, 0, 0, 0], [2, 0, 0, 0]], "int32")
    classes, logits = np.array([[2, 0, 3, 3], [1, 3, 3, 3]], "int32"), random(2, 2, 4, 4, 3)
    rois = np.stack([BOXES[0, [1, 0]], BOXES[1, [2, 0]]])  # each the box that it is matched with
    layer = MaskLosses(binary, 0.5)
    found = on_arrays(layer)(logits, rois, states, classes, matched, BOXES, masks)
    expected = [0, 0]
    for image, row in ((0, 0), (0, 1), (1, 0)):
        # Each cell covers 2x2 pixels of the mask, and each of its four points lies in the middle of one.
        target = masks[image, matched[image, row]].reshape(4, 2, 4, 2).mean(axis=(1, 3))
        target = np.round(target) if binary else target
        p = 1 / (1 + np.exp(-logits[image, row, ..., classes[image, row]].astype("float64")))
        expected[image] += 0.5 * np.mean(-target * np.log(p) - (1 - target) * np.log(1 - p))
    np.testing.assert_allclose(found["mask"], expected, rtol=1e-4)
    np.testing.assert_array_equal(found["count"], [2, 1])
    without = on_arrays(layer)(logits, rois, states, classes, matched, BOXES)
    np.testing.assert_array_equal(without["mask"], [0, 0])


def test_masks_are_means_over_heads():
    logits = random(2, 1, 2, 3, 3, 5)
    layer = MaskProbabilities(background_first=True)
    found = on_arrays(lambda labels, *heads: layer(list(heads), labels))(np.array([[3, -1]], "int32"), *logits)
    expected = (1 / (1 + np.exp(-logits[:, 0, 0, ..., 4]))).mean(axis=0)
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5)
    assert not found[0, 1].any()


def test_convolutions_of_regions_are_those_of_each_map():
    x = random(2, 3, 4, 5, 6)
    for layer, plain in (
        (RoIConv2D(7, 3, padding="same"), keras.layers.Conv2D(7, 3, padding="same")),
        (RoIConv2DTranspose(7, 2, strides=2), keras.layers.Conv2DTranspose(7, 2, strides=2)),
    ):
        actual, _ = layer(x), plain(x[0])
        plain.set_weights(layer.get_weights())
        expected = np.stack([ops.convert_to_numpy(plain(maps)) for maps in x])
        np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=1e-5)
        assert layer.compute_output_shape((None, None, 4, 5, 6)) == (None, None, *expected.shape[2:])
    assert layer.macs(keras.KerasTensor(x.shape)) == 3 * 4 * 5 * 6 * 7 * 4


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles by XLA anyway")
def test_xla_compiles_a_step_over_proposals():
    """Loops, draws and gradients, with the same numbers."""
    import tensorflow as tf

    def step(size, logits, deltas, boxes, labels, crowd, seed, *maps):
        with tf.GradientTape() as tape:
            tape.watch([logits, deltas, *maps])
            truth = boxes, labels, crowd, seed
            losses = ProposalLosses(30)(size, logits, deltas, anchors(), *truth)
            found = Proposals(1, training_candidates=14, training_number=20)(
                [tf.zeros((2, *side, 1)) for side in MAPS], size, logits, deltas, anchors(), training=True
            )
            samples = ProposalSamples(2, 12)(found["boxes"], found["scores"], *truth)
            pooled = RoIAlign(("P2", "P3"), 3)(list(maps), samples["proposals"])
            loss = tf.reduce_sum(losses["class"] + losses["box"]) + tf.reduce_sum(pooled**2)
        return loss, *tape.gradient(loss, [logits, deltas, *maps])

    maps = [random(2, *side, 4, seed=n) for n, side in enumerate(MAPS)]
    given = SIZES, random(2, 60, 1), random(2, 60, 4, seed=1) * 0.3, BOXES, LABELS, CROWD, SEEDS, *maps
    given = [tf.constant(value) for value in given]
    for plain, compiled in zip(tf.function(step)(*given), tf.function(step, jit_compile=True)(*given), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-4)
