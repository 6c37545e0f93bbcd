"""A teacher for the small records, in every form that a teacher has."""

import keras
import numpy as np

import tfvt
from tfvt.data.classification import ClassificationServing
from tfvt.data.images import EvalPreprocessing
from tfvt.trainers.recipes.parsing import parse_recipe, write_recipe
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.model import write_model, write_serving

SIZE = (32, 32)
WIDE = {"width": 8, "depths": (1, 1), "stem_pool": False}
NAMES = ("grey", "white", "red", "black", "green", "blue")  # the teacher's order of the records' classes


def pixels(seed, size=SIZE, count=8):
    return np.random.default_rng(seed).uniform(0, 255, (count, *size, 3)).astype("float32")


def teacher_network():
    """A teacher with moving statistics of its own, for images of another size than the student's."""
    keras.utils.set_random_seed(5)
    model = tfvt.create_model("resnet18", num_classes=6, input_shape=(48, 40, 3), **WIDE)
    for seed in range(3):
        model(pixels(seed, (48, 40)), training=True)
    return model


def write_teachers(folder, network, records):
    """A run, a SavedModel, .keras files and class names; returns the folder."""
    run = Run(folder / "run")
    run.folder.mkdir()
    write_recipe(parse_recipe(["--model.name=resnet18", f"--data.records={records}"]), run.recipe)
    write_serving(run, ClassificationServing(NAMES, EvalPreprocessing((48, 40))))
    write_model(run, network)
    network.export(folder / "saved", verbose=False)
    network.save(folder / "teacher.keras")
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    keras.Sequential([network, keras.layers.Softmax()]).save(folder / "probable.keras")
    return folder
