"""What a model can learn: one file for each task."""

from tfvt import registry
from tfvt.errors import UsageError

from .classification import Classification
from .detection import Detection
from .segmentation import Segmentation
from .task import Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
}


def task_class(model_name: str) -> type[Task]:
    """The task that a registered model is for; classification where there is no such model.

    Raises:
        UsageError: a model for a task that no file here has.
    """
    try:
        task = registry.get_variant(model_name).task
    except ValueError:  # the recipe's own check reports it
        return Classification
    if task not in TASKS:
        raise UsageError(f"model.name: {model_name} is for {task}, and tfvt trains {', '.join(TASKS)} so far")
    return TASKS[task]
