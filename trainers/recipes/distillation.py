"""The keys of a teacher. Whoever distils a task has them in the task's recipe under `distillation`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from tfvt import registry
from tfvt.errors import UsageError
from tfvt.stores import as_path

from .options import check_options


@dataclass(frozen=True)
class DistillationRecipe:
    """A trained model that the model in training learns from. docs/distillation.md has more.

    Args:
        teacher: a run's folder, a .keras file, a SavedModel's folder or a name of `tfvt models`; null: no teacher.
        weights: of a teacher by name: the file of its weights, as `tfvt.load_checkpoint` takes it.
        options: of a teacher by name: the family's own options.
        image_size: height and width that the teacher computes; null: its own, or the student's where it takes any.
        classes: a text file with the teacher's class names, one a line; null: those of the run, or else the records'.
        pixel_mean: of each channel; the teacher gets (pixels in 0..255 - pixel_mean) / pixel_std.
        pixel_std: of each channel.
        kind: soft (Kullback-Leibler divergence from the teacher's probabilities) or hard (cross entropy with the
            teacher's first class).
        temperature: soft: what both models' logits are divided by.
        teacher_share: the teacher's share of the loss; the labels have the rest.
    """

    teacher: str | None = None
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    classes: str | None = None
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    kind: Literal["soft", "hard"] = "soft"
    temperature: float = 1.0
    teacher_share: float = 0.8

    def __post_init__(self):
        for key, path in self.files.items():
            object.__setattr__(self, key, str(as_path(path).absolute()))
        if self.is_named:
            task = registry.get_variant(self.teacher).task
            if task != "classification":
                raise UsageError(f"distillation.teacher: {self.teacher} is for {task}, and a teacher teaches classes")
            object.__setattr__(self, "options", check_options(self.teacher, self.options, "distillation"))
        elif self.teacher is not None and (self.weights or self.options):
            key = "weights" if self.weights else "options"
            raise UsageError(
                f"distillation.{key} goes with a teacher by its model's name, and distillation.teacher {self.teacher} "
                "is none of `tfvt models`"
            )
        if self.kind == "hard" and self.temperature != 1:
            raise UsageError("distillation.temperature is for kind soft; a hard teacher names one class")

    @property
    def is_named(self) -> bool:
        """Whether the teacher is a registered model. A file of that name is `./NAME`."""
        return self.teacher in registry.list_models()

    @property
    def files(self) -> dict[str, str]:
        """The files and folders that the run reads for the teacher, by key."""
        paths = {"weights": self.weights, "classes": self.classes}
        if not self.is_named:
            paths["teacher"] = self.teacher
        return {key: path for key, path in paths.items() if path is not None}

    def check_teacher(self) -> None:
        """Refuse keys of a teacher where there is none: a recipe may leave the teacher's place to its user.

        Raises:
            UsageError: such a key is set; the message names it.
        """
        default = DistillationRecipe()
        for part in dataclasses.fields(self):
            if self.teacher is None and getattr(self, part.name) != getattr(default, part.name):
                raise UsageError(
                    f"distillation.{part.name} is set and distillation.teacher is not: name a teacher, or set "
                    f"distillation.{part.name} to {getattr(default, part.name)}"
                )
