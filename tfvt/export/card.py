"""A model card beside an export: README.md as the Hugging Face hub reads it, YAML in front and text below.

It says what is known of the model and no more. The licence of trained weights depends on the data, which tfvt does not
know: whoever publishes the card fills it in.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from tfvt.files import printable, write_whole
from tfvt.stores import AnyPath, as_path

NAME = "README.md"
PIPELINE_TAGS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}
OTHER_TASK = "other"  # the hub's word for what it does not know: tasks that users add
METRIC_TYPES = {"top1": "accuracy", "miou": "mean_iou"}  # the hub's words; others keep ours
MAX_CLASSES = 50  # that the card names
LIMITS = (
    "The figures are those of the records named above. On other images they can be lower.",
    "tfvt does not know the licence of the data, and so not that of the weights. Fill in `license` before you publish.",
)
# How to load each format: a file or folder `{name}`.
LOAD = {
    "savedmodel": 'import tensorflow as tf\n\nserve = tf.saved_model.load("{name}").signatures["serving_default"]',
    "keras": 'import keras\nimport tfvt  # registers the layers\n\nmodel = keras.models.load_model("{name}")',
    "onnx": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}")',
    "openvino": 'import openvino\n\nmodel = openvino.Core().compile_model("{name}/model.xml")',
    "litert": (
        "from ai_edge_litert.interpreter import Interpreter\n\n"
        'interpreter = Interpreter("{name}")\ninterpreter.allocate_tensors()'
    ),
}
_OURS = re.compile(r"\n<!-- tfvt wrote this card of (.+): ([0-9a-f]{64}) -->\n\Z")


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        name: of the model, as tfvt registers it.
        task: "classification", "segmentation" or "detection".
        records: name of the records that it was trained and evaluated on.
        split: of them, that the metrics are of.
        metrics: by tfvt's names, such as top1, in 0..1.
        facts: rows of a table: what, and how much.
        class_names: in the order of the labels; () if unknown.
        recipe: of the training, by key.
    """

    name: str
    task: str
    records: str
    split: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    recipe: Mapping[str, object] = field(default_factory=dict)


def write_card(export: AnyPath | str, form: str, card: Card) -> AnyPath | None:
    """Write the card of an export: into its folder, or beside its file, as README.md.

    A README.md that somebody else wrote or has edited stays. Then the card of a file `model.onnx` is `model.onnx.md`,
    and where that exists as well there is none.

    Args:
        export: folder or file that was written.
        form: one of `LOAD`, such as "onnx".
        card: what to say.

    Returns:
        The file; None if every name is taken.
    """
    export = as_path(export)
    name = _plain(printable(export.name))
    text = card_text(card, name, form)
    content = f"{text}\n<!-- tfvt wrote this card of {name}: {_digest(text)} -->\n".encode()
    places = (export / NAME,) if export.is_dir() else (export.with_name(NAME), export.with_name(f"{export.name}.md"))
    for place in places:
        if not (place.exists() or place.is_symlink()) or _is_ours(place, name):
            write_whole(place, content)
            return place
    return None


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def _is_ours(place, name):
    """Whether the file is the card of `name`, as it was written."""
    if not place.is_file() or place.is_symlink():
        return False
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    mark = _OURS.search(text)
    return mark is not None and mark[1] == name and _digest(text[: mark.start()]) == mark[2]


def card_text(card: Card, name: str, form: str) -> str:
    """The card of an export called `name`, in the format `form`, one of `LOAD`."""
    front = yaml.safe_dump(_front(card, form), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{front}---\n\n# {card.name}\n"]
    if card.metrics:
        measured = "\n".join(f"| {metric} | {value:.4f} |" for metric, value in card.metrics.items())
        where = f"On the split `{_plain(card.split)}` of {_plain(card.records)}."
        parts.append(f"## Figures\n\n{where}\n\n| | |\n|---|---|\n{measured}\n")
    if card.facts:
        rows = "\n".join(f"| {_cell(what)} | {_cell(value)} |" for what, value in card.facts.items())
        parts.append(f"## Model\n\n| | |\n|---|---|\n{rows}\n")
    if card.class_names:
        named = [f"{number}. {_plain(label)}" for number, label in enumerate(card.class_names[:MAX_CLASSES])]
        more = len(card.class_names) - MAX_CLASSES
        parts.append("## Classes\n\n" + "\n".join(named + ([f"\nand {more} more"] if more > 0 else [])) + "\n")
    parts.append(f"## Load it\n\n```python\n{LOAD[form].format(name=name)}\n```\n")
    if card.recipe:
        recipe = yaml.safe_dump(dict(card.recipe), sort_keys=False, allow_unicode=True)
        parts.append(f"## Training\n\nThe recipe of `tfvt train`:\n\n```yaml\n{recipe}```\n")
    parts.append("## Limits\n\n" + "\n".join(f"- {limit}" for limit in LIMITS) + "\n")
    return "\n".join(parts).encode("utf-8", "backslashreplace").decode()  # names of files may be no text


def _front(card, form):
    """What the hub reads."""
    front = {
        "license": "unknown",
        "library_name": "keras",
        "pipeline_tag": PIPELINE_TAGS.get(card.task, OTHER_TASK),
        "tags": ["tfvt", card.name, form],
    }
    metrics = [
        {"type": METRIC_TYPES.get(metric, metric), "name": metric, "value": value}
        for metric, value in card.metrics.items()
    ]
    if metrics:
        # On one line each: some readers end the header at any line of dashes.
        records, split = (" ".join(name.split()) for name in (card.records, card.split))
        front["metrics"] = [metric["type"] for metric in metrics]
        result = {
            "task": {"type": PIPELINE_TAGS.get(card.task, OTHER_TASK)},
            "dataset": {"name": records, "type": records, "split": split},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": card.name, "results": [result]}]
    return front


def _cell(text):
    return _plain(text).replace("|", "\\|")


def _plain(text):
    """Text on one line, in which Markdown finds no HTML."""
    return " ".join(str(text).split()).replace("<", "&lt;")
