"""Loading: convert names and layouts, check every tensor, and only then write."""

import logging
import re
from dataclasses import dataclass

import numpy as np

from tfvt.checkpoints import resnet
from tfvt.checkpoints.files import read_arrays

SOURCES = ("auto", "torchvision", "timm", "huggingface", "tfvt")

logger = logging.getLogger("tfvt")


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor.

    Attributes:
        loaded: paths of the model's weights that were written.
        resampled: those of them that were resized to another shape first.
        fresh: paths of the model's weights that kept their own values.
        unused: the source's names that went nowhere.
    """

    loaded: tuple[str, ...]
    resampled: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self):
        counts = f"{len(self.loaded)} loaded, {len(self.resampled)} resampled"
        left = [
            f"{kind}: {', '.join(names)}" for kind, names in (("fresh", self.fresh), ("unused", self.unused)) if names
        ]
        return "; ".join([counts, *left])


def load_checkpoint(model, path_or_arrays, *, source="auto", strict=True) -> LoadReport:
    """Load trained weights into a model. Either everything fits and is written, or the model stays as it was.

    A ResNet's weights go into a ResNet, or into the trunk of a VT-ResNet (the last stage and the classifier are
    left unused, the token modules and the head fresh). With another `num_classes` the head is left fresh, which
    the log says.

    Args:
        model: a `keras.Model` of this package.
        path_or_arrays: a path (see `tfvt.checkpoints.files.read_arrays`) or a dict of arrays under the
            source's names, in the source's layouts.
        source: "torchvision", "timm", "huggingface" or "tfvt" (a `.keras` file of this package, or arrays under
            the paths of the model's weights); "auto" tells by the names.
        strict: False lets other tensors than those named above be unused or fresh.

    Raises:
        FileNotFoundError, ValueError: a file that is missing or damaged, of another family, or tensors that do
            not fit; the message names the tensors, and both shapes where they differ.
    """
    arrays = read_arrays(path_or_arrays)
    source = _detect(source, arrays)
    if source == "tfvt":
        converted = {name: (name, array) for name, array in arrays.items()}
    else:
        arrays = {name: array for name, array in arrays.items() if not resnet.is_ignored(name)}
        converted = resnet.convert(source, arrays)
    weights = {weight.path: weight for weight in model.weights}
    # A ResNet's classifier reads other channels than the head of a VT-ResNet, even where their number agrees.
    foreign_head = source != "tfvt" and any(path.startswith("vt1_") for path in weights)
    assigned, misfits = {}, []
    for path, (name, array) in converted.items():
        if path not in weights or (foreign_head and path.startswith("head/")):
            continue
        shape = tuple(weights[path].shape)
        if shape == array.shape:
            assigned[path] = (name, array)
        elif not path.startswith("head/"):
            misfits.append(f"{name} {array.shape} for {path} {shape}")
    if misfits:
        raise ValueError(f"shapes of the checkpoint and of {model.name} differ: {'; '.join(misfits[:8])}")

    if not assigned:
        raise ValueError(f"no tensor of the checkpoint fits {model.name}")
    used = {name for name, _ in assigned.values()}
    report = LoadReport(
        loaded=tuple(path for path in weights if path in assigned),
        resampled=(),
        fresh=tuple(path for path in weights if path not in assigned and not _is_random_state(path)),
        unused=tuple(name for name in arrays if name not in used),
    )
    if strict:
        _check_strict(model, weights, report, {name: path for path, (name, _) in converted.items()})
    for path, (_, array) in assigned.items():
        weights[path].assign(np.asarray(array, dtype="float32"))
    _log(model, report, source)
    return report


def _detect(source, arrays):
    if source not in SOURCES:
        raise ValueError(f"source={source!r}: expected one of {', '.join(map(repr, SOURCES))}")
    if source == "auto":
        for candidate in ("torchvision", "huggingface"):
            if resnet.matches(candidate, arrays):
                return candidate
        if any(re.match(r"\w+/(\w+/)*\w+$", name) for name in arrays):
            return "tfvt"
        raise ValueError(
            f"cannot tell the source of a checkpoint with names such as {', '.join(sorted(arrays)[:3]) or '(none)'}: "
            f"pass source={' or '.join(map(repr, SOURCES[1:]))}"
        )
    if source != "tfvt" and not resnet.matches(source, arrays):
        raise ValueError(
            f"source={source!r}, but the checkpoint has no ResNet stem under that source's name; it has names such as "
            f"{', '.join(sorted(arrays)[:3]) or '(none)'}"
        )
    return source


def _check_strict(model, weights, report, our_path):
    """Raise unless what is fresh and unused is what the pair of checkpoint and model is known to leave."""
    fresh = [path for path in report.fresh if not re.match(r"head/|vt\d+_", path)]
    present = {path.split("_")[0] for path in weights}  # stem, stage1, ...
    unused = []
    for name in report.unused:
        path = our_path.get(name, "")
        left_out_stage = re.match(r"(stage\d+)_", path)
        if not (path.startswith("head/") or (left_out_stage and left_out_stage[1] not in present)):
            unused.append(name)
    problems = []
    if fresh:
        problems.append(f"no tensor for {len(fresh)} weight(s) of {model.name}: {', '.join(fresh[:5])}")
    if unused:
        problems.append(f"{len(unused)} tensor(s) that {model.name} has no weight for: {', '.join(unused[:5])}")
    if problems:
        raise ValueError(f"{'; '.join(problems)} (strict=False loads what fits)")


def _is_random_state(path):
    return path.endswith("seed_generator_state")


def _log(model, report, source):
    logger.info("%s: %s", model.name, report)
    if any(path.startswith("head/") for path in report.fresh):
        logger.warning("%s: the head is left fresh", model.name)
    names = [layer.name for layer in model.layers]
    if source == "tfvt" or "normalize" not in names:
        return
    layer = model.get_layer("normalize")
    mean, std = resnet.PIXEL_STATISTICS
    if not (np.allclose(layer.scale, 1 / np.array(std)) and np.allclose(layer.offset, -np.array(mean) / np.array(std))):
        logger.warning(
            "%s normalises pixels by other statistics than the checkpoint was trained with: build it with "
            "pixel_mean=%s, pixel_std=%s",
            model.name,
            mean,
            std,
        )
