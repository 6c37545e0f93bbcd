"""How a step runs on devices: one file for each tensor library. Keras' backend chooses."""

import keras

from tfvt.errors import UsageError
from tfvt.trainers.recipes.recipe import Recipe
from tfvt.trainers.tasks.task import Task

from .engine import Engine, Evaluator


def make_engine(recipe: Recipe, task: Task, steps_per_epoch: int) -> Engine:
    """The engine of Keras' backend.

    Raises:
        UsageError: there is none, or the recipe names devices that do not exist.
    """
    check_backend()
    from .tensorflow import TensorFlowEngine

    return TensorFlowEngine(recipe, task, steps_per_epoch)


def make_evaluator(model: keras.Model, task: Task, batch_size: int) -> Evaluator:
    """An evaluator on the first device.

    Raises:
        UsageError: Keras' backend has no engine.
    """
    check_backend()
    import tensorflow as tf

    from .tensorflow import TensorFlowEvaluator

    return TensorFlowEvaluator(model, task, tf.distribute.get_strategy(), batch_size)


def check_backend() -> None:
    """Refuse to train or to use a run on a backend without an engine.

    Raises:
        UsageError: Keras runs on a backend other than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"this needs the TensorFlow backend; KERAS_BACKEND is {keras.backend.backend()!r}")


def configure_process(recipe: Recipe) -> None:
    """Set what Keras and its backend hold once per process: number format, seeds, reproducible operations."""
    check_backend()
    from .tensorflow import make_deterministic

    keras.config.set_dtype_policy(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        make_deterministic()
