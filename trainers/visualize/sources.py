"""What is shown: models of runs and files, and images as they take them."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.classification import ClassificationServing
from tfvt.data.exif import decode_upright
from tfvt.data.images import EvalPreprocessing, center_crop
from tfvt.data.records import ENCODED, feature_spec, open_records
from tfvt.errors import UsageError, one_line
from tfvt.export import Serving
from tfvt.files import local_file, printable
from tfvt.stores import AnyPath
from tfvt.tfrecords_tools.images import RejectedImageError
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.folder import Run, open_run
from tfvt.trainers.run.model import read_model, read_serving
from tfvt.trainers.serve import read_encoded
from tfvt.trainers.tasks import task_class

LARGEST = 512  # pixels of the longer side of an image for a model that takes any size


@dataclass(frozen=True)
class Source:
    """A trained model.

    Attributes:
        name: for people.
        model: the model.
        run: its run; None for a file.
        serving: of that run.
    """

    name: str
    model: keras.Model
    run: Run | None = None
    serving: Serving | None = None

    def class_name(self, number: int) -> str:
        """Of a class by its number; the number itself where names are unknown."""
        names = self.serving.class_names if self.serving else ()
        return names[number] if number < len(names) else str(number)

    def pixels(self, encoded: bytes) -> np.ndarray:
        """An encoded image as the model takes it, float32 (H, W, 3).

        A run's classifier gets what it gets in evaluation. Otherwise a model of a fixed size gets the largest centre
        crop of that shape, and a model of any size the whole image, smaller if a side is above `LARGEST`.
        """
        if isinstance(self.serving, ClassificationServing):
            return self.serving.decode(tf.constant(encoded)).numpy()
        size = self.model.inputs[0].shape[1:3]
        if None not in size:
            whole = EvalPreprocessing(image_size=size, crop_ratio=1.0)
            return center_crop(lambda window: decode_upright(tf.constant(encoded), window), whole).numpy()
        image = decode_upright(tf.constant(encoded), lambda height, width: (0, 0, height, width))[0].numpy()
        return resized(image, [max(1, round(n * min(1, LARGEST / max(image.shape[:2])))) for n in image.shape[:2]])


def resized(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The whole image (H, W, 3) at another size, float32: bilinear, with antialiasing."""
    if tuple(image.shape[:2]) == tuple(size):
        return image.astype("float32")
    return tf.image.resize(image, size, antialias=True).numpy()


@dataclass(frozen=True)
class Picture:
    """An image of a user or of a run.

    Attributes:
        title: for people.
        encoded: its file.
    """

    title: str
    encoded: bytes


def open_source(path: AnyPath) -> Source:
    """The model of a finished run's folder, or in a .keras file.

    Raises:
        UsageError: there is none, or it cannot be read; or it takes something else than images of three channels.
    """
    source = _of_file(path) if path.suffix == ".keras" or path.is_file() else _of_run(path)
    inputs = getattr(source.model, "inputs", None)
    if not inputs or len(inputs[0].shape) != 4 or inputs[0].shape[-1] != 3:
        raise UsageError(f"{source.name}: the model takes no images (B, H, W, 3)")
    return source


def _of_file(path):
    if not path.is_file():
        raise UsageError(f"{printable(path)}: there is no such file")
    try:
        with local_file(path) as local:
            return Source(printable(path), keras.models.load_model(local, compile=False))
    except Exception as error:  # zipfile, HDF5 and Keras each raise their own errors
        raise UsageError(
            f"{printable(path)} cannot be read as a .keras file, it is damaged, of another Keras, or has layers that "
            f"tfvt does not know ({one_line(error)[:200]})"
        ) from error


def _of_run(folder):
    run = open_run(folder)
    model = read_model(run)
    recipe = parse_recipe(["--config", str(run.recipe)])
    return Source(printable(folder), model, run, read_serving(run, task_class(recipe.model.name).serving_class))


def read_pictures(files: Sequence[AnyPath], sources: Sequence[Source], count: int) -> list[Picture]:
    """The images of files, or else the first of the validation records of the first run.

    Raises:
        UsageError: a file is no image, or there are neither files nor records.
    """
    if files:
        return [Picture(printable(path.name), _read(path)) for path in files]
    run = next((source.run for source in sources if source.run), None)
    if run is None:
        raise UsageError("--images: a .keras file brings no images, name some")
    data = parse_recipe(["--config", str(run.recipe)]).data
    try:
        records = open_records(data.records, data.validation_split)
    except UsageError as error:
        raise UsageError(f"--images: the records of {printable(run.folder)} are away ({error}), name images") from error
    examples = tf.data.TFRecordDataset(list(records.shard_paths)).take(count)
    return [
        Picture(f"{records.split} {number}", tf.io.parse_single_example(e, feature_spec([ENCODED]))[ENCODED].numpy())
        for number, e in enumerate(examples)
    ]


def _read(path):
    try:
        return read_encoded(path)
    except RejectedImageError as error:
        raise UsageError(f"--images {printable(path)}: {error}") from error


def batch(source: Source, pictures: Sequence[Picture]) -> list[np.ndarray]:
    """The pictures as the model takes them, one array (1, H, W, 3) each: they may differ in size.

    Raises:
        UsageError: TensorFlow cannot decode one.
    """
    arrays = []
    for picture in pictures:
        try:
            arrays.append(source.pixels(picture.encoded)[None])
        except tf.errors.InvalidArgumentError as error:
            raise UsageError(f"{picture.title} cannot be decoded ({one_line(error)[:120]})") from error
    return arrays


@contextlib.contextmanager
def named(source: Source) -> Iterator[None]:
    """Name the model of which a ValueError says that it has nothing to show.

    Raises:
        UsageError: in place of the ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{source.name}: {error}") from error


def read_curves(folder: AnyPath) -> dict[str, list[float]]:
    """Columns of a run's metrics.csv, also of one that has not ended; NaN in place of what is missing.

    Raises:
        UsageError: there is no run, no metrics.csv, or nothing in it.
    """
    run = open_run(folder)
    try:
        with run.metrics.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else ())}
    except FileNotFoundError:
        raise UsageError(f"{printable(folder)} has no metrics.csv: its first epoch has not ended") from None
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"{printable(run.metrics)} is damaged ({one_line(error)[:120]})") from error
    shown = {n: v for n, v in columns.items() if n.startswith(("train_", "validation_")) and not n.endswith("_skipped")}
    if not shown or "step" not in columns:
        raise UsageError(f"{printable(run.metrics)} holds no epoch to draw")
    return {"step": columns["step"], **shown}
