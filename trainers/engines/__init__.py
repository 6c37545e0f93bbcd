"""How a step runs on devices: one file for each tensor library. Keras' backend chooses."""

import keras

from tfvt.errors import UsageError
from tfvt.trainers.recipes.recipe import DistributionRecipe, Recipe
from tfvt.trainers.tasks.task import Task

from .cluster import Cluster
from .engine import Devices, Engine, Evaluator


def configure_process(recipe: Recipe, cluster: Cluster | None = None) -> Devices:
    """Set what Keras and its backend hold once per process, and find the devices, and the other processes.

    Call it before anything that computes.

    Args:
        recipe: of the run.
        cluster: all processes of the run; None: this one is alone, or the backend finds them.

    Raises:
        UsageError: Keras' backend has no engine, or devices or processes do not exist.
    """
    check_backend("tensorflow", "jax")
    keras.config.set_dtype_policy(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    if keras.backend.backend() == "jax":
        from .jax_devices import JaxDevices, make_deterministic

        if recipe.deterministic:
            make_deterministic()
        return JaxDevices(recipe.distribution, cluster)
    from .tensorflow import TensorFlowDevices, has_accelerator, make_deterministic

    # A TPU of another machine is not listed before it is connected.
    accelerated = recipe.distribution.strategy == "tpu" or has_accelerator()
    deterministic = not accelerated if recipe.deterministic is None else recipe.deterministic
    if deterministic:
        make_deterministic()
    return TensorFlowDevices(recipe.distribution, cluster, deterministic)


def make_engine(recipe: Recipe, task: Task, steps_per_epoch: int, devices: Devices) -> Engine:
    """The engine of Keras' backend.

    Raises:
        UsageError: the recipe does not go with the devices.
    """
    if keras.backend.backend() == "jax":
        from .jax import JaxEngine

        return JaxEngine(recipe, task, steps_per_epoch, devices)
    from .tensorflow import TensorFlowEngine

    return TensorFlowEngine(recipe, task, steps_per_epoch, devices)


def make_evaluator(model: keras.Model, task: Task, batch_size: int) -> Evaluator:
    """An evaluator on the first device.

    Raises:
        UsageError: Keras' backend has no engine.
    """
    check_backend("tensorflow", "jax")
    if keras.backend.backend() == "jax":
        from .jax import JaxEvaluator
        from .jax_devices import JaxDevices
        from .sharding import Layout

        devices = JaxDevices(DistributionRecipe())
        return JaxEvaluator(model, task, devices, batch_size, Layout({}, devices.mesh, {}))
    from .tensorflow import TensorFlowDevices, TensorFlowEvaluator

    return TensorFlowEvaluator(model, task, TensorFlowDevices(DistributionRecipe()), batch_size)


def check_backend(*backends: str) -> None:
    """Refuse a backend on which something does not work.

    Raises:
        UsageError: Keras runs on a backend that is none of `backends`.
    """
    if keras.backend.backend() not in backends:
        raise UsageError(
            f"this needs KERAS_BACKEND={' or '.join(backends)}, and Keras runs on {keras.backend.backend()!r}"
        )
