"""Distillation: a task whose loss is in part what a trained model says of the same pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfvt.errors import UsageError
from tfvt.trainers.recipes.recipe import Recipe

from . import task_class
from .classification import Classification, cross_entropy
from .task import Task
from .teacher import Teacher


def training_task(recipe: Recipe) -> Task:
    """The task that a run of `recipe` trains on: its model's own, with a teacher if the recipe names one.

    Raises:
        UsageError: keys of a teacher without one, or a task that takes none.
    """
    task = task_class(recipe.model.name)(recipe)
    distillation = getattr(recipe, "distillation", None)
    if distillation is None:
        return task
    distillation.check_teacher()
    if distillation.teacher is None:
        return task
    if not isinstance(task, Classification):
        raise UsageError(f"distillation.teacher: {recipe.model.name} is no classifier, and a teacher teaches classes")
    return Distillation(task)


class Distillation:
    """`Task` that wraps a classification: a share of the training loss comes from a teacher (Hinton et al. 2015).

    The teacher sees the student's pixels, augmented and mixed. In evaluation all is as without it. What is not defined
    here is the wrapped task's.
    """

    def __init__(self, task: Classification) -> None:
        self.task = task
        self.recipe = task.recipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def model(self) -> keras.Model:
        """The student. Beside it, where the student's variables are made, this reads the teacher.

        Raises:
            UsageError: either does not fit the recipe or the records.
        """
        student = self.task.model()
        data = self.recipe.data
        self.teacher = Teacher(self.recipe.distillation, self.train_records.class_names, data.train.image_size)
        return student

    def fixed_variables(self) -> Sequence[keras.Variable]:
        """The teacher's."""
        return self.teacher.source.variables

    def teach(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with the teacher's logits (B, classes) as "teacher"."""
        return {**batch, "teacher": self.teacher(batch["image"])}

    def loss(self, outputs: Any, batch: Mapping[str, Any], training: bool) -> Any:
        """(B,): in training, teacher_share of the teacher's loss and the rest of the task's own."""
        own = self.task.loss(outputs, batch, training)
        if not training:
            return own
        distillation = self.recipe.distillation
        if distillation.kind == "hard":
            taught = hard_loss(outputs, batch["teacher"])
        else:
            taught = soft_loss(outputs, batch["teacher"], distillation.temperature)
        return distillation.teacher_share * taught + (1 - distillation.teacher_share) * own

    def digests(self) -> dict[str, str]:
        """With that of the teacher."""
        return self.task.digests() | {"teacher": self.teacher.digest}


def soft_loss(student: Any, teacher: Any, temperature: float) -> Any:
    """T^2 KL(teacher || student) (B,) of logits (B, classes) over T, the temperature (Hinton et al. 2015)."""
    expected = ops.log_softmax(teacher / temperature)
    found = ops.log_softmax(student / temperature)
    return temperature**2 * ops.sum(ops.exp(expected) * (expected - found), axis=-1)


def hard_loss(student: Any, teacher: Any) -> Any:
    """Cross entropy (B,) of logits (B, classes) with the teacher's first class (Touvron et al. 2021, eq. 3)."""
    return cross_entropy(ops.argmax(teacher, axis=-1), student, label_smoothing=0.0)
