"""torchvision on a PyTorch for processors: `from benchmarks.torchvision_on_cpu import torchvision`.

The package index has torchvision compiled for CUDA, whose operators such a PyTorch cannot load. This module declares
and gives the one that detectors need, non-maximum suppression; RoIAlign has a form in Python of torchvision's own. The
package stands outside the environment's own packages (see the Makefile), because transformers takes one that it finds
for a whole one.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(sys.prefix) / "torchvision"


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of the boxes (N, 4), x1, y1, x2, y2, that stay, the best first."""
    order = np.argsort(-scores.detach().numpy(), kind="stable")
    corners = boxes.detach().numpy()[order]
    area = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    alive, kept = np.ones(len(order), bool), []
    for place in range(len(order)):
        if alive[place]:
            kept.append(order[place])
            sides = np.minimum(corners[place, 2:], corners[:, 2:]) - np.maximum(corners[place, :2], corners[:, :2])
            shared = np.prod(np.maximum(sides, 0), axis=1)
            alive &= shared <= iou_threshold * (area[place] + area - shared)
    return torch.tensor(np.array(kept, "int64"))


if not FOLDER.is_dir():
    raise ModuleNotFoundError(f"{FOLDER} does not exist: `make test-parity` or `make bench` installs torchvision there")
sys.path.append(str(FOLDER))
OPERATORS = torch.library.Library("torchvision", "DEF")  # they live as long as this object
for name in ("nms", "qnms"):  # of the second one torchvision describes the shape
    OPERATORS.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
OPERATORS.impl("nms", nms, "CPU")

torchvision = importlib.import_module("torchvision")
importlib.import_module("torchvision.models.detection")
sys.modules["torchvision.ops.boxes"]._assert_has_ops = lambda: None
