"""A trained model as a teacher: read from where it lies, checked, and asked about the pixels of another model."""

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

import tfvt
from tfvt.data.classification import ClassificationServing
from tfvt.errors import UsageError, one_line
from tfvt.files import local_file
from tfvt.stores import as_path
from tfvt.trainers.recipes.distillation import DistillationRecipe
from tfvt.trainers.run.folder import Run, open_run
from tfvt.trainers.run.model import read_model, read_serving

logger = logging.getLogger("tfvt")


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes:
        apply: from pixels (B, H, W, 3), as the model takes them, to outputs (B, classes), without an update.
        image_size: height and width; None where the model takes any.
        class_names: in the order of the outputs; () if unknown.
        digest: computes a hash of the weights.
        variables: of a Keras model, which `apply` reads.
    """

    apply: Callable[[Any], Any]
    image_size: tuple[int | None, int | None]
    class_names: tuple[str, ...]
    digest: Callable[[], str]
    variables: Sequence[keras.Variable] = ()


class Teacher:
    """From the pixels (B, H, W, 3), 0..255, of a batch to the teacher's logits (B, classes) of the records' classes.

    It resizes the images to its own size, linearly and with antialiasing. Where its outputs are probabilities, their
    logarithms are the logits. Its variables belong to no other model.

    Args:
        recipe: which teacher.
        class_names: of the records, in the order of their labels.
        student_size: height and width of the images; the teacher's own size where it takes any.

    Raises:
        UsageError: it cannot be read, does not know a class, or cannot compute images; the message names the key.
    """

    def __init__(self, recipe: DistillationRecipe, class_names: Sequence[str], student_size: tuple[int, int]) -> None:
        self.recipe = recipe
        names = _read_names(recipe.classes) if recipe.classes else ()
        self.source = _read(recipe, len(names or class_names), student_size)
        self.image_size = self._own_size(student_size)
        outputs = self._probe()
        self.gives_probabilities = bool((outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-2))
        self.columns = self._columns(names or self.source.class_names, tuple(class_names), outputs.shape[-1])

    def __call__(self, images: Any) -> Any:
        outputs = self._outputs(self._resized(images))
        logits = ops.log(ops.maximum(outputs, keras.config.epsilon())) if self.gives_probabilities else outputs
        return ops.take(logits, self.columns, axis=-1)

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the weights."""
        return self.source.digest()

    def _resized(self, images):
        batch, *size, channels = images.shape
        if tuple(size) == self.image_size:
            return images
        # Not `resize`: TensorFlow's antialiasing runs neither on GPUs nor in XLA. This one is two products of matrices.
        scale = np.divide(self.image_size, size).astype("float32")
        shape = (batch, *self.image_size, channels)
        return ops.image.scale_and_translate(images, shape, scale, np.zeros(2, "float32"), (1, 2), "linear")

    def _outputs(self, images):
        mean, std = (np.array(values, "float32") for values in (self.recipe.pixel_mean, self.recipe.pixel_std))
        return ops.cast(self.source.apply((images - mean) / std), "float32")

    def _own_size(self, student_size):
        wanted = self.recipe.image_size
        own = self.source.image_size
        if wanted and any(side not in (None, other) for side, other in zip(own, wanted, strict=True)):
            raise UsageError(f"distillation.image_size {wanted}: the teacher takes images of {own}")
        return tuple(side or other for side, other in zip(own, wanted or student_size, strict=True))

    def _probe(self):
        """Outputs (2, classes) for two images."""
        images = np.stack([np.zeros((*self.image_size, 3)), np.full((*self.image_size, 3), 200.0)]).astype("float32")
        try:
            outputs = ops.convert_to_numpy(self._outputs(ops.convert_to_tensor(images)))
        except Exception as error:  # of any library that the model may use
            raise self._wrong(f"cannot compute images of {self.image_size} ({one_line(error)[:200]})") from error
        if outputs.ndim != 2 or outputs.shape[-1] < 2:
            raise self._wrong(f"gives outputs of shape {outputs.shape[1:]} for an image: expected one for each class")
        if not np.isfinite(outputs).all():
            raise self._wrong("gives outputs that are not finite")
        return outputs

    def _columns(self, names, class_names, num_outputs):
        """The places of the records' classes among the outputs."""
        if not names:
            if num_outputs != len(class_names):
                raise self._wrong(
                    f"has {num_outputs} outputs without names, and the records have {len(class_names)} classes: "
                    "distillation.classes takes a file with the names of the outputs, one a line"
                )
            logger.warning(
                "distillation.teacher %s has no class names: its %d outputs are taken to be in the order of the "
                "records' classes (distillation.classes says another)",
                self.recipe.teacher,
                num_outputs,
            )
            return np.arange(num_outputs)
        if num_outputs != len(names):
            raise self._wrong(f"has {num_outputs} outputs and {len(names)} class names")
        if missing := [name for name in class_names if names.count(name) != 1]:
            how = "knows no class" if names.count(missing[0]) == 0 else "has more than one class"
            raise self._wrong(
                f"{how} {missing[0]!r}, which the records have ({len(missing)} such of {len(class_names)})"
            )
        return np.array([names.index(name) for name in class_names])

    def _wrong(self, what):
        return _error(f"{self.recipe.teacher} {what}")


def _error(what, key="teacher"):
    return UsageError(f"distillation.{key}: {what}")


def _read_names(path):
    try:
        names = [line.strip() for line in as_path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise _error(f"cannot read {path}: {one_line(error)}", "classes") from error
    return tuple(filter(None, names))


def _read(recipe, num_classes, student_size):
    if recipe.is_named:
        return _named_model(recipe, num_classes, recipe.image_size or student_size)
    path = as_path(recipe.teacher)
    if Run(path).recipe.is_file():
        run = open_run(path)
        try:
            model, names = read_model(run), read_serving(run, ClassificationServing).class_names
        except UsageError as error:
            raise _error(error) from error
        return _keras_model(path, model, names)
    if (path / "saved_model.pb").is_file():
        return _saved_model(path)
    if path.suffix == ".keras" and path.is_file():
        try:
            with local_file(path) as file:
                model = keras.models.load_model(file, compile=False)
        except Exception as error:  # zipfile, HDF5 and Keras each raise their own errors for a file that is not whole
            reason = f"it is damaged or of another Keras ({one_line(error)[:200]})"
            raise _error(f"{path} cannot be read, {reason}") from error
        return _keras_model(path, model)
    raise _error(
        f"{path} is no teacher: expected the folder of a run, a .keras file, the folder of a SavedModel, or a name of "
        "`tfvt models`"
    )


def _named_model(recipe, num_classes, image_size):
    if not recipe.weights:
        raise _error(f"{recipe.teacher} is the name of a model: distillation.weights says the file of its weights")
    try:
        model = tfvt.create_model(
            recipe.teacher, num_classes=num_classes, input_shape=(*image_size, 3), **recipe.options
        )
    except ValueError as error:
        raise _error(f"{recipe.teacher}: {error}") from error
    try:
        report = tfvt.load_checkpoint(model, recipe.weights)
    except (ValueError, OSError, ImportError) as error:
        raise _error(error, "weights") from error
    if report.fresh:  # a head of another number of classes
        raise _error(
            f"{recipe.weights} has nothing for {', '.join(report.fresh)} of {recipe.teacher} with {num_classes} "
            "classes: distillation.classes takes a file with the names of the teacher's classes, one a line",
            "weights",
        )
    return _keras_model(recipe.teacher, model)


def _keras_model(place, model, class_names=()):
    shape = model.input_shape  # a list or a dict where there are several
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3:
        raise _error(f"{place} takes {shape}: expected one input (None, height, width, 3)")
    digest = functools.partial(_weights_digest, model)
    return Source(lambda pixels: model(pixels, training=False), shape[1:3], class_names, digest, model.variables)


def _weights_digest(model):
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.asarray(weight)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _saved_model(path):
    if keras.backend.backend() != "tensorflow":
        raise _error(
            f"{path} is a SavedModel, which TensorFlow alone runs; KERAS_BACKEND is {keras.backend.backend()!r}: give "
            "the run's folder or a .keras file"
        )
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # of protobuf, of the file system, of checkpoints
        raise _error(f"{path} cannot be read, it is damaged ({one_line(error)[:200]})") from error
    signature = loaded.signatures.get("serving_default")
    inputs = signature.structured_input_signature[1] if signature else {}
    outputs = signature.structured_outputs if signature else {}
    if len(inputs) != 1 or len(outputs) != 1:
        raise _error(
            f"{path}: its signature serving_default has the inputs {sorted(inputs)} and the outputs {sorted(outputs)}; "
            "expected one of each, pixels and logits or probabilities (of what `tfvt export` wrote, give the run's "
            "folder)"
        )
    ((name, spec),), (output,) = inputs.items(), outputs
    if not spec.dtype.is_floating or spec.shape.rank != 4 or spec.shape[0] is not None or spec.shape[-1] != 3:
        raise _error(f"{path} takes {spec.dtype.name} {spec.shape}: expected floats (None, height, width, 3)")

    def serve(pixels, owner=loaded):  # of the variables
        return signature(**{name: tf.cast(pixels, spec.dtype)})[output]

    def apply(pixels):
        if not tf.distribute.in_cross_replica_context():
            return serve(pixels)
        strategy = tf.distribute.get_strategy()  # what was loaded for several devices runs only on one of them
        return strategy.experimental_local_results(strategy.run(serve, (pixels,)))[0]

    return Source(apply, tuple(spec.shape[1:3]), (), lambda: _files_digest(path))


def _files_digest(path):
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        with local_file(file) as local, local.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
