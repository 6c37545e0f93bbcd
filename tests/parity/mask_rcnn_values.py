"""Writes what torchvision's Mask R-CNN gives for two images: `python mask_rcnn_values.py FOLDER`.

A process of its own, so that no other test sees torchvision.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.torchvision_on_cpu import torchvision
from tests.parity.mask_rcnn_scene import ALL, BOXES, CLASSES, LABELS, PROPOSALS, SIZE


def random_model():
    torch.manual_seed(0)
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=SIZE[0],
        rpn_pre_nms_top_n_train=1000, rpn_post_nms_top_n_train=PROPOSALS, rpn_post_nms_top_n_test=PROPOSALS,
        rpn_batch_size_per_image=ALL, box_batch_size_per_image=ALL, box_detections_per_img=50,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            # Statistics and scales that a wrong name would show, and small activations.
            if (".bn" in name or "downsample.1" in name) and tensor.is_floating_point():
                tensor.uniform_(*((0.2, 0.6) if name.endswith("weight") else (0.5, 1.5)))
            elif name.endswith("bias"):
                tensor.uniform_(-0.1, 0.1)
        images = [torch.rand(3, *SIZE) for _ in range(2)]
        head = model.rpn.head
        for key, layer, spread in (("logits", head.cls_logits, 2.0), ("deltas", head.bbox_pred, 0.3)):
            layer.weight.mul_(spread / proposals(model, images)[key].std())
        predictor = model.roi_heads.box_predictor
        for key, layer, spread in (("class_logits", predictor.cls_score, 2.0), ("boxes", predictor.bbox_pred, 0.5)):
            layer.weight.mul_(spread / regions(model, images)[key].std())
    return model, images


def proposals(model, images):
    """Outputs of the head of proposals, as one array each, the anchors, and the boxes that are left."""
    seen, _ = model.transform(images)
    maps = model.backbone(seen.tensors)
    logits, deltas = model.rpn.head(list(maps.values()))
    logits, deltas = torchvision.models.detection.rpn.concat_box_prediction_layers(logits, deltas)
    anchors = torch.stack(model.rpn.anchor_generator(seen, list(maps.values())))
    boxes, _ = model.rpn(seen, maps)
    return {"logits": logits.view(2, -1), "deltas": deltas.view(2, -1, 4), "anchors": anchors, "found": boxes}


def regions(model, images):
    """Outputs of the second stage for its proposals."""
    seen, _ = model.transform(images)
    heads, maps = model.roi_heads, model.backbone(seen.tensors)
    boxes, _ = model.rpn(seen, maps)
    features = heads.box_head(heads.box_roi_pool(maps, boxes, seen.image_sizes))
    logits, deltas = heads.box_predictor(features)
    return {"class_logits": logits, "boxes": deltas, "proposals": torch.cat(boxes)}


def losses(model, images):
    """With the statistics of batch norm that it has, and a mask that fills each box."""
    targets = []
    for boxes, labels in zip(BOXES, LABELS, strict=True):
        masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top:bottom, left:right] = 1
        boxes = torch.tensor(boxes, dtype=torch.float32)
        targets.append({"boxes": boxes, "labels": torch.tensor(labels), "masks": masks})
    seen, targets = model.transform(images, targets)
    maps = model.backbone(seen.tensors)
    model.rpn.train()
    model.roi_heads.train()
    boxes, first = model.rpn(seen, maps, targets)
    _, second = model.roi_heads(maps, boxes, seen.image_sizes, targets)
    return first | second


def cells(finest):
    """Of boxes within the images, pixels at half-pixel centres as in mmdetection, which these detectors do not take."""
    torch.manual_seed(1)
    corners = torch.rand(2, 20, 2, 2) * torch.tensor(SIZE[::-1])
    boxes = torch.cat([corners.amin(2), corners.amax(2)], -1)
    taken = torchvision.ops.roi_align(finest, list(boxes), 7, spatial_scale=1 / 4, sampling_ratio=2, aligned=True)
    return {"cells": taken.view(2, 20, -1, 7, 7), "cells_boxes": boxes, "cells_map": finest}


def main(folder):
    model, images = random_model()
    values = {f"image{n}": image.numpy() for n, image in enumerate(images)}
    with torch.no_grad():
        for name, value in (proposals(model, images) | regions(model, images)).items():
            if name != "found":
                values[name] = value.numpy()
        seen, _ = model.transform(images)
        maps = model.backbone(seen.tensors)
        values |= {name: tensor.numpy() for name, tensor in cells(maps["0"][:, :8]).items()}
        found, _ = model.roi_heads(maps, model.rpn(seen, maps)[0], seen.image_sizes)
        for number, image in enumerate(found):
            values |= {f"found_{key}{number}": tensor.numpy() for key, tensor in image.items()}
        save_file(model.state_dict(), folder / "state.safetensors")
        values |= {name: loss.numpy() for name, loss in losses(model, images).items()}
    np.savez(folder / "values.npz", **values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
