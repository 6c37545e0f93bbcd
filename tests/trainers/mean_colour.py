"""A task of another kind than classification, the mean colour of an image: that of docs/extending_task.md."""

import sys
import types

from tests.extending_page import new_file

for name, path in (
    ("tfvt.data.mean_colour", "tfvt/data/mean_colour.py"),
    ("tfvt.trainers.tasks.mean_colour", "trainers/tasks/mean_colour.py"),
):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(new_file(path), path, "exec"), vars(module))

MeanColour = sys.modules["tfvt.trainers.tasks.mean_colour"].MeanColour
