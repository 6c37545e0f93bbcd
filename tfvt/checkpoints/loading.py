"""Loading: convert names and layouts, check every tensor, and only then write."""

import logging
import math
import re
from dataclasses import dataclass

import keras
import numpy as np

from tfvt.checkpoints import acmix, detection, google_npz, huggingface, pvt, resnet, san, segmentation, swin, tfm, timm
from tfvt.checkpoints.files import Checkpoint, keras_gelu, read_arrays, read_neighbour
from tfvt.checkpoints.folders import CONFIG, VERSION, checkpoint_file, folder_source
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import as_is
from tfvt.checkpoints.positions import KERNELS, fit_positions
from tfvt.checkpoints.renaming import Table, Tensor
from tfvt.checks import check_choice
from tfvt.models.base import HEAD_LAYERS, task_layer, trunk_stage

OWN = Format(
    sources=("tfvt",),
    family="tfvt",
    anchor=r"\w+(/\w+)+",
    first_weight="",
    table=Table(((r"(?P<path>[^\n]+)", "{path}"),), layout=as_is),
    training=lambda source: _own_training(source),
    ignored=r".*seed_generator_state",
)
MODULES = (acmix, san, swin, pvt, detection, segmentation, resnet, huggingface, timm, tfm, google_npz)
# In the order in which `source="auto"` tries them: our own paths match more than Google's, and ACmix and SAN
# layers have the names of a ResNet's stem.
FORMATS = (
    *(f for module in MODULES for f in module.FORMATS),
    OWN,
)
# What of a trunk only its classifier reads: a model of maps has no last norm, and no class token of PVT's last stage.
HEAD_INPUTS = r"norm/\w+|stage4_positions/token(_position)?"
SOURCES = ("auto", *dict.fromkeys(source for candidate in FORMATS for source in candidate.sources))

logger = logging.getLogger("tfvt")


def _own_training(source):
    """What a `.keras` file or a folder of `tfvt.save_pretrained` says."""
    if isinstance(source, dict) or not str(source).endswith(".safetensors"):
        return Training(gelu=keras_gelu(source))
    config = read_neighbour(source, CONFIG)
    if VERSION not in config:
        return Training()
    options = config.get("model_args")
    gelu = options.get("gelu", "erf") if isinstance(options, dict) else None
    return Training(gelu=gelu, pixel_statistics=timm.pixel_statistics(config))


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor.

    Attributes:
        loaded: paths of the model's weights that were written.
        resampled: those of them that loading resized to another shape first.
        fresh: paths of the model's weights that kept their own values.
        unused: the source's names that no weight took.
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


def load_checkpoint(
    model: keras.layers.Layer,
    path_or_arrays: Checkpoint,
    *,
    source: str = "auto",
    strict: bool = True,
    resample: str = "source",
) -> LoadReport:
    """Load trained weights into a model. If anything does not fit, the model stays as it was.

    A ResNet's weights go into a ResNet, or into the trunk of a VT-ResNet (the last stage and the classifier
    stay unused, the token modules and the head fresh). A ViT's go into a ViT, or into a Funnel-ViT of the same
    widths, and back. A classifier's go into the backbone of a segmentation model or of a detector. Loading resamples
    position embeddings to the model's grid, and a Swin's bias tables to its windows. With another `num_classes`, or
    other pre-logits, the head stays fresh; the log says so.

    Args:
        model: a `keras.Model` of this package, or a layer that is built, such as one `ACmix`.
        path_or_arrays: a path (see `tfvt.checkpoints.files.read_arrays`), a folder with config.json and
            model.safetensors of transformers, timm or `tfvt.save_pretrained` (also in parts, and a model's folder in
            the hub's cache), or a dict of arrays under the source's names, in the source's layouts.
        source: "torchvision", "timm" (DeiT too), "huggingface", "google" (`.npz` of vit_jax and big_vision), "tfm"
            (TensorFlow official models), "acmix" (the authors' ACmix-ResNet, or one layer of it), "swin" (the
            authors' Swin or ACmix-Swin, or one block of it), "san" (the authors' SAN, patchwise, or one attention
            layer of it), "pvt" (the authors' PVT), "mmsegmentation" (UPerNet over Swin, semantic FPN over PVT),
            "mmdetection" (RetinaNet over PVT or ResNet, Mask R-CNN and its cascade over Swin or ResNet; "torchvision"
            has RetinaNets and Mask R-CNNs too) or "tfvt" (a `.keras` file of this package, or arrays under the paths
            of the model's weights); "auto" recognises the source by the names, that of a folder by config.json.
        strict: False lets other tensors than those named above be unused or fresh.
        resample: kernel for position embeddings, one of `tfvt.checkpoints.positions.KERNELS`; "source": the one
            that the source's own family uses ("bilinear" for our own files).

    Raises:
        OSError, ValueError: a file that is missing or damaged, of another family, trained with another
            form of GELU than the model's, or tensors that do not fit; the message names the tensors, and both
            shapes where they differ.
    """
    check_choice("resample", resample, ("source", *KERNELS))
    file = checkpoint_file(path_or_arrays)
    arrays = read_arrays(file)
    found = _find_format(source, arrays) if file is path_or_arrays else _find_in_folder(source, arrays, file)
    arrays = {name: array for name, array in arrays.items() if not re.fullmatch(found.ignored, name)}
    training = found.training(file)
    weights = _weights_by_path(model)
    _check_family(model, weights, found, training)
    converted = found.table.convert(arrays)
    assigned, resampled = _fit(model, weights, converted, found.resample if resample == "source" else resample)
    used = {name for tensor in assigned.values() for name in tensor.names}
    report = LoadReport(
        loaded=tuple(path for path in weights if path in assigned),
        resampled=tuple(resampled),
        fresh=tuple(path for path in weights if path not in assigned and not re.fullmatch(OWN.ignored, path)),
        unused=tuple(name for name in arrays if name not in used),
    )
    if strict:
        _check_strict(model, weights, report, converted)
    values = {path: _float32(path, tensor) for path, tensor in assigned.items()}
    for path, value in values.items():
        weights[path].assign(value)
    _log(model, report, found, training)
    return report


def _weights_by_path(model):
    """The paths of a layer's weights start below the layer."""
    start = 0 if isinstance(model, keras.Model) else len(model.path) + 1
    return {weight.path[start:]: weight for weight in model.weights}


def _find_format(source, arrays):
    check_choice("source", source, SOURCES)
    for candidate in FORMATS:
        if source in ("auto", *candidate.sources) and candidate.table.has(candidate.anchor, arrays):
            return candidate
    names = ", ".join(sorted(arrays)[:3]) or "(none)"
    if source == "auto":
        raise ValueError(
            f"cannot tell the source of a checkpoint with names such as {names}: "
            f"pass source={' or '.join(map(repr, SOURCES[1:]))}"
        )
    family = " or ".join(dict.fromkeys(candidate.family for candidate in FORMATS if source in candidate.sources))
    raise ValueError(f"source={source!r}, but the checkpoint has no {family} under that source's names: it has {names}")


def _find_in_folder(source, arrays, file):
    """`_find_format` for a file whose folder says its source."""
    said, key = folder_source(file) if source == "auto" else (source, "")
    try:
        return _find_format(said, arrays)
    except ValueError as error:
        key = f", {key} in {CONFIG}" if key else ""
        raise ValueError(f"{file}{key}: {error}") from error


def _check_family(model, weights, found, training):
    """Raise unless the model is of the checkpoint's family, and computes as the checkpoint was trained."""
    if found.first_weight and found.first_weight not in weights:
        raise ValueError(f"the checkpoint is of the family {found.family} ({found.sources[0]}), {model.name} is not")
    form = _encoder_option(model, "gelu")
    if form and training.gelu and form != training.gelu:
        raise ValueError(
            f"the checkpoint was trained with another GELU than {model.name} has ({form!r}): "
            f"build the model with gelu={training.gelu!r}"
        )


def _fit(model, weights, converted, kernel):
    """({path: Tensor} of all that fits, resampled paths). A head that does not fit is not an error."""
    # A classifier that reads other vectors does not fit, even if their width agrees: those of token modules instead
    # of a trunk, or after pre-logits, a neck or a decoder instead of none.
    ours, theirs = ({task_layer(path) for path in paths} for paths in (weights, converted))
    foreign_head = not (ours ^ theirs) <= {None, "head"}
    assigned, resampled, misfits, other_heads = {}, [], [], set()
    for path, (names, array) in converted.items():
        is_head = task_layer(path) in HEAD_LAYERS
        if path not in weights or (foreign_head and is_head):
            continue
        shape = tuple(weights[path].shape)
        grid = _position_grid(path, shape)
        if grid is not None and array.size and array.ndim in (2, 3) and array.shape[-1] == shape[-1]:
            fitted = fit_positions(array, grid, kernel)
            if fitted is not None:
                array = fitted[0].reshape(shape)
                resampled += [path] if fitted[1] else []
        if shape == array.shape:
            assigned[path] = Tensor(names, array)
        elif is_head:
            other_heads.add(path.rpartition("/")[0])
        else:
            misfits.append(f"{', '.join(names)} {array.shape} for {path} {shape}")
    if misfits:
        raise ValueError(f"shapes of the checkpoint and of {model.name} differ: {'; '.join(misfits[:8])}")
    # Without the kernel, the bias of a head would be half of another one.
    assigned = {path: tensor for path, tensor in assigned.items() if path.rpartition("/")[0] not in other_heads}
    if not assigned:
        names = ", ".join(sorted(converted)[:3]) or "no known name"
        raise ValueError(f"no tensor of the checkpoint fits {model.name}: it has {names}")
    return assigned, resampled


def _position_grid(path, shape):
    """(rows, columns) of a table of positions, or of relative positions, that may be resampled; else None."""
    if path.endswith("/patch_positions"):
        return shape[:2]
    if path.endswith("/bias_table"):
        return (math.isqrt(shape[0]),) * 2
    return None


def _float32(path, tensor):
    """The tensor as float32. Raise unless it holds real numbers that are finite there."""
    names = f"{', '.join(tensor.names)} of the checkpoint (for {path})"
    if tensor.array.dtype.kind in "cOSUmM" or tensor.array.dtype.names:
        raise ValueError(f"{names} has the type {tensor.array.dtype}: expected real numbers")
    with np.errstate(over="ignore"):
        value = np.asarray(tensor.array, dtype="float32")
    if not np.isfinite(value).all():
        raise ValueError(f"{names} holds NaN, infinity or numbers beyond float32")
    return value


def _check_strict(model, weights, report, converted):
    """Raise if anything is fresh or unused beyond what this pair of checkpoint and model always leaves."""
    fresh = [path for path in report.fresh if task_layer(path) is None]
    present = {None, *map(trunk_stage, weights)}
    our_path = {name: path for path, tensor in converted.items() for name in tensor.names}
    unused = []
    for name in report.unused:
        path = our_path.get(name, "")
        for_head = task_layer(path) in HEAD_LAYERS or re.fullmatch(HEAD_INPUTS, path)
        if not for_head and trunk_stage(path) in present:
            unused.append(name)
    problems = []
    if fresh:
        problems.append(f"no tensor for {len(fresh)} weight(s) of {model.name}: {', '.join(fresh[:5])}")
    if unused:
        problems.append(f"{len(unused)} tensor(s) that {model.name} has no weight for: {', '.join(unused[:5])}")
    if problems:
        raise ValueError(f"{'; '.join(problems)} (strict=False loads what fits)")


def _encoder_option(model, option):
    """An option of the model's encoder layers; None for a model without any."""
    layers = getattr(model, "layers", [model])
    return next((getattr(layer, option) for layer in layers if hasattr(layer, option)), None)


def _log(model, report, found, training):
    logger.info("%s: %s", model.name, report)
    if any(task_layer(path) in HEAD_LAYERS for path in report.fresh):
        logger.warning("%s: the head is left fresh", model.name)
    if report.resampled:
        weights = _weights_by_path(model)
        grids = (_position_grid(path, tuple(weights[path].shape)) for path in report.resampled)
        tables = (f"{path} to {rows}x{columns}" for path, (rows, columns) in zip(report.resampled, grids, strict=True))
        logger.warning("%s: resampled %s", model.name, ", ".join(tables))
    epsilon = _encoder_option(model, "layer_norm_epsilon")
    if epsilon and training.layer_norm_epsilon not in (None, epsilon):
        logger.warning(
            "%s has layer_norm_epsilon=%g, the checkpoint was trained with %g: build it with that",
            model.name,
            epsilon,
            training.layer_norm_epsilon,
        )
    known = found is not OWN or training.pixel_statistics
    if known and "normalize" in [layer.name for layer in getattr(model, "layers", [])]:
        _log_pixels(model, training.pixel_statistics)


def _log_pixels(model, statistics):
    """Log it if the model does not normalise pixels as the checkpoint's training did."""
    if statistics is None:
        logger.warning("%s: the checkpoint does not say its pixel statistics; check pixel_mean, pixel_std", model.name)
        return
    layer, (mean, std) = model.get_layer("normalize"), statistics
    if not (np.allclose(layer.scale, 1 / np.array(std)) and np.allclose(layer.offset, -np.array(mean) / np.array(std))):
        logger.warning(
            "%s normalises pixels by other statistics than the checkpoint was trained with: build it with "
            "pixel_mean=%s, pixel_std=%s",
            model.name,
            mean,
            std,
        )
