"""What a classifier's answers show: the classes that it confuses most, and images that it gets right and wrong."""

from collections.abc import Mapping, Sequence

import numpy as np

from .task import Pictures, Table

MOST_CLASSES = 10  # of the table
MOST_MISTAKES = 3  # of a class
MOST_PICTURES = 12  # right ones, and wrong ones


def worst_classes(rows: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Table:
    """The classes with the smallest share of right answers, and what they were taken for.

    Args:
        rows: "label" and "predicted", integers (images,); a negative label does not count.
        class_names: by label.
    """
    counted = rows["label"] >= 0
    label, predicted = rows["label"][counted], rows["predicted"][counted]
    images = np.bincount(label, minlength=len(class_names))
    right = np.bincount(label[label == predicted], minlength=len(class_names))
    share = right / np.maximum(images, 1)
    wrong = np.flatnonzero(right < images)
    worst = sorted(wrong, key=lambda index: (share[index], index))[:MOST_CLASSES]
    lines = []
    for index in worst:
        answers = np.bincount(predicted[(label == index) & (predicted != index)], minlength=len(class_names))
        most = [other for other in np.argsort(-answers, kind="stable")[:MOST_MISTAKES] if answers[other]]
        taken = ", ".join(f"{class_names[other]} ({answers[other]})" for other in most)
        lines.append((class_names[index], f"{images[index]}", f"{share[index]:.1%}", taken))
    note = f"{len(wrong)} of the {np.count_nonzero(images)} classes have images that were taken for another class."
    return Table("Confusion of the worst classes", note, ("Class", "Images", "Right", "Taken for"), tuple(lines))


def sample_pictures(rows: Mapping[str, np.ndarray], class_names: Sequence[str]) -> tuple[Pictures, Pictures]:
    """The surest wrong answers, and right answers from all over the split.

    Args:
        rows: as for `worst_classes`, with "probability" (images,) of the predicted class.
        class_names: by label.
    """
    label, predicted, probability = (rows[name] for name in ("label", "predicted", "probability"))
    wrong = np.flatnonzero((label >= 0) & (label != predicted))
    surest = wrong[np.argsort(-probability[wrong], kind="stable")][:MOST_PICTURES]
    right = np.flatnonzero((label >= 0) & (label == predicted))
    spread = right[np.linspace(0, max(len(right) - 1, 0), min(len(right), MOST_PICTURES)).astype(int)]
    taken = {
        i: f"{class_names[label[i]]}, taken for {class_names[predicted[i]]} ({probability[i]:.0%})" for i in surest
    }
    known = {i: f"{class_names[label[i]]} ({probability[i]:.0%})" for i in spread}
    return (
        Pictures("Wrong", "The surest of the wrong answers, with the probability of the class in the answer.", taken),
        Pictures("Right", "Images from all over the split.", known),
    )
