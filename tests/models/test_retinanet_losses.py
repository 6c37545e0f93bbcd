"""RetinaNet's losses against mmdetection's, written out in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

import tests.contracts as contracts
from tfvt.layers.boxes import assign_boxes, encode_boxes
from tfvt.models.retinanet import retinanet_losses

CLASSES, SLOTS = 3, 5


def iou(a, b):
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def covered(anchor, crowd):
    shared = np.prod(np.maximum(np.minimum(anchor[2:], crowd[2:]) - np.maximum(anchor[:2], crowd[:2]), 0))
    return shared / np.prod(anchor[2:] - anchor[:2])


def owners(anchors, boxes, crowds):
    """For each anchor the index of its box, -1 for none, -2 for what does not count."""
    overlaps = np.array([[iou(anchor, box) for box in boxes] for anchor in anchors]).reshape(len(anchors), -1)
    found = []
    for anchor, row in zip(anchors, overlaps, strict=True):
        best = max(row, default=0)
        found.append(int(row.argmax()) if best >= 0.5 else -1 if best < 0.4 else -2)
        if found[-1] == -1 and any(covered(anchor, crowd) >= 0.5 for crowd in crowds):
            found[-1] = -2
    for box in range(len(boxes)):
        top = overlaps[:, box].max()
        for anchor in np.flatnonzero(overlaps[:, box] >= top * (1 - 1e-6)):
            found[anchor] = box if top > 0 else found[anchor]
    return found


def losses_of(logits, deltas, anchors, boxes, labels, crowds):
    sums = {"class": 0.0, "box": 0.0, "positives": 0}
    for logit, delta, anchor, owner in zip(logits, deltas, anchors, owners(anchors, boxes, crowds), strict=True):
        if owner == -2:
            continue
        for label in range(CLASSES):
            p = 1 / (1 + np.exp(-logit[label]))
            if owner >= 0 and labels[owner] == label:
                sums["class"] -= 0.25 * (1 - p) ** 2 * np.log(p)
            else:
                sums["class"] -= 0.75 * p**2 * np.log(1 - p)
        if owner >= 0:
            box, side = boxes[owner], anchor[2:] - anchor[:2]
            centre = (box[:2] + box[2:] - anchor[:2] - anchor[2:]) / 2 / side
            code = np.concatenate([centre, np.log((box[2:] - box[:2]) / side)])
            sums["box"] += abs(delta - code).sum()
            sums["positives"] += 1
    return sums


def scene(seed):
    """Outputs of 60 anchors, and slots: three boxes, a crowd and an empty one."""
    rng = np.random.default_rng(seed)

    def boxes(number, least, most):
        corner = rng.uniform(0, 60, (number, 2))
        return np.concatenate([corner, corner + rng.uniform(least, most, (number, 2))], axis=1)

    outputs = {
        "class_logits": rng.normal(size=(60, CLASSES)) * 2, "box_deltas": rng.normal(size=(60, 4)),
        "anchors": boxes(60, 10, 40),
    }  # fmt: skip
    slots = np.concatenate([boxes(3, 10, 40), boxes(1, 40, 50), np.zeros((1, 4))])
    return outputs, slots, np.array([2, 0, 2, 1, -1]), np.array([False, False, False, True, False])


def batch_of(scenes):
    outputs = {key: np.stack([scene[0][key] for scene in scenes]).astype("float32") for key in scenes[0][0]}
    boxes, labels, crowd = (np.stack([scene[n] for scene in scenes]) for n in (1, 2, 3))
    return outputs, boxes.astype("float32"), labels.astype("int32"), crowd


def losses(*arrays, **options):
    return retinanet_losses(*keras.tree.map_structure(ops.convert_to_tensor, arrays), **options)


def test_losses_are_mmdetections():
    scenes = [scene(0), scene(1)]
    ours = {key: ops.convert_to_numpy(value) for key, value in losses(*batch_of(scenes)).items()}
    for number, (outputs, boxes, labels, _) in enumerate(scenes):
        expected = losses_of(*outputs.values(), boxes[:3], labels[:3], boxes[3:4])
        assert 3 <= expected["positives"] < 30
        for key, value in expected.items():
            np.testing.assert_allclose(ours[key][number], value, rtol=1e-4)


def test_anchors_do_not_count_in_the_padding_that_an_image_alone_would_not_have():
    """The image is 40 pixels high, alone padded to 64: what lies below adds nothing, what else there is stays."""
    outputs, boxes, labels, crowd = scene(0)
    anchors = outputs["anchors"]
    inside = ((anchors[:, :2] + anchors[:, 2:]) / 2 < [64, 128]).all(1)
    assert 5 < (~inside).sum() < 30
    shown = {key: value[inside] for key, value in outputs.items()}
    anchors[~inside, :] = anchors[~inside] + 200  # where no box is: these are the best of none
    expected = losses_of(*shown.values(), boxes[:3], labels[:3], boxes[3:4])
    ours = losses(*batch_of([(outputs, boxes, labels, crowd)]), size=np.array([[40, 97]], "int32"))
    for key, value in expected.items():
        np.testing.assert_allclose(float(ours[key][0]), value, rtol=1e-4)


def test_an_image_without_boxes_has_negatives_alone():
    outputs, boxes, labels, crowd = batch_of([scene(0)])
    ours = losses(outputs, boxes * 0, np.full_like(labels, -1), crowd & False)
    assert (float(ours["positives"][0]), float(ours["box"][0])) == (0, 0)
    expected = losses_of(*(value[0] for value in outputs.values()), [], [], [])["class"]
    np.testing.assert_allclose(float(ours["class"][0]), expected, rtol=1e-4)


def test_giou_is_of_the_decoded_boxes():
    """Deltas that hit the box have none, whatever their anchors are."""
    outputs, boxes, labels, crowd = batch_of([scene(0)])
    tensors = [ops.convert_to_tensor(x) for x in (outputs["anchors"], boxes, labels, crowd)]
    own = boxes[:, ops.convert_to_numpy(assign_boxes(*tensors)[0])[0]]
    right = encode_boxes(ops.convert_to_tensor(own), tensors[0])
    hit = losses(outputs | {"box_deltas": right}, boxes, labels, crowd, box_loss="giou")
    missed = losses(outputs, boxes, labels, crowd, box_loss="giou")
    assert abs(float(hit["box"][0])) < 1e-3
    assert float(hit["positives"][0]) / 10 < float(missed["box"][0]) < 2 * float(missed["positives"][0])


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_gradients_are_finite_for_extreme_answers(box_loss):
    """Also of an image without boxes; and none reaches the boxes of anchors that are not positive."""
    outputs, boxes, labels, crowd = batch_of([scene(0), scene(1)])
    labels[1] = -1

    class Losses(keras.layers.Layer):
        def build(self, _):
            self.logits = self.add_weight(name="logits", shape=(2, 60, CLASSES))
            self.deltas = self.add_weight(name="deltas", shape=(2, 60, 4))

        def call(self, x):
            answers = outputs | {"class_logits": self.logits + 0, "box_deltas": self.deltas + 0}
            found = losses(answers, boxes, labels, crowd, box_loss=box_loss)
            return (found["class"] + found["box"])[:, None]

    layer = Losses(name="losses")
    image = keras.Input((1,))
    model = keras.Model(image, layer(image))
    layer.logits.assign(outputs["class_logits"] * 100)
    layer.deltas.assign(outputs["box_deltas"] * 100)
    found = contracts.gradients(model, np.zeros((2, 1), "float32"))
    assert all(np.isfinite(value).all() for value in found.values())
    assert abs(found["losses/logits"]).min(axis=(1, 2)).max() == 0  # the easy ones weigh nothing
    assert abs(found["losses/logits"]).max() > 0.1
    touched = found["losses/deltas"].any(axis=-1)
    positives = ops.convert_to_numpy(losses(outputs, boxes, labels, crowd)["positives"])
    assert not touched[1].any()
    assert 0 < touched[0].sum() <= positives[0]
