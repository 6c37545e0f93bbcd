"""A model as a folder of config.json and model.safetensors, as timm keeps models on the hub and in "local-dir:".

    {"architecture": "vt_resnet18", "num_classes": 10, "num_features": 512,
     "model_args": {"num_tokens": 8},
     "pretrained_cfg": {"input_size": [3, 96, 128], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}

timm's own folders have its names, the builder's arguments under its names, and statistics of pixels in 0..1.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfvt.checkpoints.folders import CONFIG, VERSION, WEIGHTS, read_config, snapshot, timm_match
from tfvt.checkpoints.loading import LoadReport
from tfvt.checkpoints.timm import pixel_statistics
from tfvt.checks import plain
from tfvt.files import whole_folder
from tfvt.models.base import HEAD_LAYERS, task_layer
from tfvt.registry import check_options, get_variant, list_models
from tfvt.stores import AnyPath, as_path

LOCAL_DIR = "local-dir:"
COMMON = ("input_shape", "features", "include_top")  # of `create_model`, that model_args may have
TIMM_ARGUMENTS = {"drop_path_rate": "drop_path_rate"}  # timm's name -> ours


@dataclass(frozen=True)
class Pretrained:
    """What the config.json of a folder says.

    Attributes:
        folder: where it is.
        architecture: of the config, for messages.
        name: of the registered model.
        arguments: of `create_model`.
        num_features: width of the embedding; None if the config does not say.
    """

    folder: AnyPath
    architecture: str
    name: str
    arguments: dict[str, Any]
    num_features: int | None

    @property
    def config(self) -> AnyPath:
        """The file."""
        return self.folder / CONFIG

    def check_built(self, model: keras.Model) -> None:
        """Raise a ValueError unless the embedding of `model` has `num_features`."""
        head = next((layer for layer in model.layers if layer.name == "head"), None)
        if self.num_features is None or not isinstance(head, keras.layers.Dense):
            return
        if head.kernel.shape[0] != self.num_features:
            raise ValueError(
                f"{self.config}: num_features={self.num_features} contradicts architecture={self.architecture!r}, "
                f"which has {head.kernel.shape[0]}"
            )

    def check_loaded(self, report: LoadReport, given: Mapping[str, Any]) -> None:
        """Raise a ValueError if the weights are of other sizes than the config says. `given` are the caller's own."""
        if "num_classes" not in given and any(task_layer(path) in HEAD_LAYERS for path in report.fresh):
            raise ValueError(
                f"{self.config}: num_classes={self.arguments.get('num_classes', 1000)} contradicts the head in "
                f"{WEIGHTS}, which does not fit (pass num_classes to start with a fresh head)"
            )
        if "input_shape" not in given and report.resampled:
            raise ValueError(
                f"{self.config}: input_size (model_args or pretrained_cfg) contradicts {report.resampled[0]} in "
                f"{WEIGHTS}, which has another grid (pass input_shape to resample it)"
            )


def read_pretrained(path: AnyPath | str) -> Pretrained:
    """What a folder's config.json says of the model to build.

    Args:
        path: a folder with config.json, or a model's folder in the hub's cache.

    Raises:
        FileNotFoundError: there is no such folder, or no config.json in it.
        ValueError: it is damaged, or names what tfvt does not have; the message names file and key.
    """
    if not as_path(path).is_dir():
        raise FileNotFoundError(f"{LOCAL_DIR}{path}: no such folder")
    folder = snapshot(as_path(path))
    config = read_config(folder)
    try:
        name = _our_name(config)
        architecture, ours = config["architecture"], VERSION in config or timm_match(config["architecture"]) is None
        arguments = _model_arguments(config, name, ours)
        size = _input_size(config)
        if size and "input_shape" not in arguments:
            arguments["input_shape"] = size
        statistics = pixel_statistics(config)
        if statistics and "pixel_mean" not in arguments:
            arguments |= {"pixel_mean": statistics[0], "pixel_std": statistics[1]}
        num_classes, num_features = (_natural(config, key) for key in ("num_classes", "num_features"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    if num_classes == 0 and "features" not in arguments:  # timm's word for no head
        arguments["include_top"] = False
    elif num_classes:
        arguments["num_classes"] = num_classes
    return Pretrained(folder, architecture, name, arguments, num_features)


def _our_name(config):
    """The registered name of the model."""
    architecture = config.get("architecture")
    if architecture is None and "model_type" in config:
        raise ValueError(
            f"model_type={config['model_type']!r}, a folder of transformers: build the model by its name and fill it "
            "with load_checkpoint(model, FOLDER)"
        )
    if not isinstance(architecture, str):
        raise ValueError(f"architecture={architecture!r}: expected the name of a model")
    match = timm_match(architecture)
    name = match[0] if match else architecture
    if match and match.re.groups:
        name = f"vit_{match[1]}{match[2]}"
    if name not in list_models():
        try:
            get_variant(architecture)
        except ValueError as error:
            raise ValueError(
                f"architecture={architecture!r}: {error}; of timm tfvt reads resnet18, 34, 50, 101 and plain vit_* and "
                "deit_* of patches that it has"
            ) from error
    return name


def _model_arguments(config, name, ours):
    arguments = config.get("model_args", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"model_args={arguments!r}: expected a JSON object")
    if ours:
        try:
            check_options(name, set(arguments) - set(COMMON))
        except ValueError as error:
            raise ValueError(f"model_args: {error}") from error
        return {key: _tuples(value) for key, value in arguments.items()}
    unknown = sorted(set(arguments) - {*TIMM_ARGUMENTS, "img_size"})
    if unknown:
        raise ValueError(f"model_args: tfvt has nothing for {unknown[0]!r} of timm")
    return {TIMM_ARGUMENTS[key]: value for key, value in arguments.items() if key != "img_size"}


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _input_size(config):
    """(height, width, channels): of timm's img_size, or input_size (channels first), or the name; None if unknown."""
    pixels = config.get("pretrained_cfg", config)
    size = pixels.get("input_size") if isinstance(pixels, dict) else None
    if size is not None and (not isinstance(size, list) or len(size) != 3 or not all(type(n) is int for n in size)):
        raise ValueError(f"pretrained_cfg.input_size={size!r}: expected [channels, height, width]")
    match = timm_match(config["architecture"])
    if match is None or VERSION in config:
        return size and (size[1], size[2], size[0])
    side = config.get("model_args", {}).get("img_size")
    if side is not None:
        sides = [side, side] if type(side) is int else side
        if not isinstance(sides, list) or len(sides) != 2:
            raise ValueError(f"model_args.img_size={side!r}: expected a number or [height, width]")
        return (*sides, size[0] if size else 3)
    if size is None and match.re.groups:
        return (int(match[3]), int(match[3]), 3)
    return size and (size[1], size[2], size[0])


def _natural(config, key):
    value = config.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{key}={value!r}: expected an integer of at least 0")
    return value


def save_pretrained(
    model: keras.Model,
    folder: AnyPath | str,
    *,
    architecture: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> AnyPath:
    """Write a model as a folder of config.json and model.safetensors, which `create_model("local-dir:FOLDER")` reads.

    The weights have the paths of the model's own and Keras' layouts.

    Args:
        model: of `create_model`, or loaded from a `.keras` file.
        folder: where to write, new or empty, also "gs://bucket/folder"; it appears complete or not at all.
        architecture: registered name of the model; default `model.name`.
        model_args: the options that the model was built with, where they are not the defaults of `architecture`, and
            `num_classes` of a detector.
        class_names: in the order of the classes; the config keeps them as `label_names`.

    Returns:
        The folder.

    Raises:
        ValueError: `architecture` and `model_args` do not build this model; the message names what differs.
        FileExistsError: the folder has content.
        OSError: it cannot be written.
    """
    from safetensors.numpy import save_file

    from tfvt import __version__
    from tfvt.create import create_model

    architecture = architecture or model.name
    arguments = _creation_arguments(model, {key: plain(value) for key, value in (model_args or {}).items()})
    _check_equal(model, create_model(architecture, **arguments), architecture)
    num_classes = arguments.pop("num_classes", 0)
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"class_names has {len(class_names)} names, {model.name} has {num_classes} classes")
    config = {"architecture": architecture, "num_classes": num_classes}
    if not isinstance(outputs := model.output, dict) and len(outputs.shape) == 2:
        config["num_features"] = model.get_layer("head").kernel.shape[0] if num_classes else outputs.shape[-1]
    if class_names is not None:
        config["label_names"] = list(class_names)
    config |= {"model_args": arguments, "pretrained_cfg": _pretrained_cfg(arguments), VERSION: __version__}
    with whole_folder(folder, last=CONFIG) as written:
        text = json.dumps(config, indent=2, ensure_ascii=False, default=vars) + "\n"  # a `Block` as its fields
        (written / CONFIG).write_text(text, encoding="utf-8")
        arrays = {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}
        save_file({path: np.ascontiguousarray(array) for path, array in arrays.items()}, written / WEIGHTS)
    return as_path(folder)


def _creation_arguments(model, given):
    """What `create_model` needs for a model like this one, besides its name."""
    arguments, outputs = {"input_shape": tuple(model.input_shape[1:])}, model.output
    has_head = any(task_layer(weight.path) in HEAD_LAYERS for weight in model.weights)
    if has_head and not isinstance(outputs, dict):
        arguments["num_classes"] = outputs.shape[-1]
    elif not has_head:
        arguments |= {"features": tuple(outputs)} if isinstance(outputs, dict) else {"include_top": False}
    normalize = next((layer for layer in model.layers if layer.name == "normalize"), None)
    if normalize is None:
        return arguments | {"pixel_mean": None} | given
    deviation = [1 / scale for scale in normalize.scale]
    mean = [-offset * std for offset, std in zip(normalize.offset, deviation, strict=True)]
    statistics = {"pixel_mean": mean, "pixel_std": deviation}
    return arguments | {key: tuple(round(v, 6) for v in values) for key, values in statistics.items()} | given


def _pretrained_cfg(arguments):
    """The part of `arguments` that timm keeps there, taken out of them: the size of images, and pixels in 0..1."""
    kept = {}
    if None not in arguments["input_shape"]:
        height, width, channels = arguments.pop("input_shape")
        kept["input_size"] = [channels, height, width]
    if arguments["pixel_mean"] is not None:
        for key, name in (("mean", "pixel_mean"), ("std", "pixel_std")):
            kept[key] = [round(value / 255, 9) for value in arguments.pop(name)]
    return kept


def _check_equal(model, twin, architecture):
    """Raise a ValueError that names the first thing that `model` and `twin` do not have in common."""
    what = f"{model.name} is not what {architecture} and model_args build"
    ours, theirs = ({weight.path: tuple(weight.shape) for weight in each.weights} for each in (model, twin))
    for path in ours | theirs:
        if ours.get(path) != theirs.get(path):
            raise ValueError(f"{what}: the weight {path} is {ours.get(path)} and {theirs.get(path)}")
    layers = {layer.name: layer for layer in twin.layers}
    for layer in model.layers:
        if type(layers.get(layer.name)) is type(layer):
            ours, theirs = (json.loads(json.dumps(each.get_config())) for each in (layer, layers[layer.name]))
            for key in sorted(set(ours) - {"dtype", "trainable"}):
                if not _same(ours[key], theirs.get(key)):
                    raise ValueError(f"{what}: {key} of {layer.name} is {ours[key]!r} and {theirs.get(key)!r}")


def _same(ours, theirs):
    """Equality, up to rounding where it is numbers."""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return all(map(_same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-9)
    return ours == theirs
