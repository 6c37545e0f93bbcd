"""Writes what torchvision's RetinaNet gives for two images: `python retinanet_values.py FOLDER v1|v2`.

A process of its own, so that no other test sees torchvision.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.torchvision_on_cpu import torchvision

CLASSES, SIZES = 6, ((96, 70), (70, 128))


def random_model(version):
    torch.manual_seed(0)
    detection = torchvision.models.detection
    build = {"v1": detection.retinanet_resnet50_fpn, "v2": detection.retinanet_resnet50_fpn_v2}[version]
    model = build(weights=None, weights_backbone=None, num_classes=CLASSES, min_size=70, detections_per_img=2000).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            # Statistics and scales that a wrong name would show, and small activations.
            if (".bn" in name or "downsample.1" in name) and tensor.is_floating_point():
                tensor.uniform_(*((0.2, 0.6) if name.endswith("weight") else (0.5, 1.5)))
            elif name.endswith("bias"):
                tensor.uniform_(-0.1, 0.1)
        images = [torch.rand(3, *size) for size in SIZES]
        # Logits far from each other, of which one in twenty gives a score above 0.05; deltas of half an anchor's side.
        for key, layer, spread in (
            ("cls_logits", model.head.classification_head.cls_logits, 2.0),
            ("bbox_regression", model.head.regression_head.bbox_reg, 0.5),
        ):
            layer.weight.mul_(spread / answers(model, images)[0][key].std())
            if key == "cls_logits":
                layer.bias.sub_(answers(model, images)[0][key].quantile(0.95) + 2.944)
    return model, images


def answers(model, images):
    """Outputs of the head, and the images as the model sees them."""
    images, _ = model.transform(images)
    return model.head(list(model.backbone(images.tensors).values())), images


def targets():
    """A few boxes of each image, and none of a small overlap with all anchors."""
    rng = np.random.default_rng(1)
    found = []
    for (height, width), number in zip(SIZES, (4, 2), strict=True):
        corner = rng.uniform(0, 0.5, (number, 2)) * (width, height)
        boxes = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (number, 2)) * (width, height)], axis=1)
        labels = torch.tensor(rng.integers(0, CLASSES, number))
        found.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": labels})
    return found


def main(folder, version):
    model, images = random_model(version)
    values = {f"image{n}": image.numpy() for n, image in enumerate(images)}
    with torch.no_grad():
        outputs, seen = answers(model, images)
        features = list(model.backbone(seen.tensors).values())
        anchors = model.anchor_generator(seen, features)
        values |= {key: tensor.numpy() for key, tensor in outputs.items()} | {"anchors": torch.stack(anchors).numpy()}
        losses = model.compute_loss(targets(), outputs, anchors)
        values |= {f"loss_{key}": loss.numpy() for key, loss in losses.items()}
        for number, (true, found) in enumerate(zip(targets(), model(images), strict=True)):
            values |= {f"true_{key}{number}": tensor.numpy() for key, tensor in true.items()}
            values |= {f"found_{key}{number}": tensor.numpy() for key, tensor in found.items()}
    np.savez(folder / "values.npz", **values)
    save_file(model.state_dict(), folder / "state.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
