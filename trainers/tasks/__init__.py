"""What a model can learn: one file for each task."""

from tfvt import registry

from .classification import Classification
from .task import Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
}


def task_class(model_name: str) -> type[Task]:
    """The task that a registered model is for; classification where there is no such model."""
    try:
        return TASKS[registry.get_variant(model_name).task]
    except ValueError:  # the recipe's own check reports it
        return Classification
