"""Model cards: the YAML that the hub reads, and what they never replace."""

import ast
import os

import pytest
import yaml

from tfvt.export.card import Card, card_text, write_card

CARD = Card(
    name="vt_resnet18",
    task="classification",
    records="digits: 1",
    split="validation",
    metrics={"top1": 0.9725, "top5": 1.0},
    facts={"Parameters": "11,638,952", "Image size": "96 x 128 pixels"},
    class_names=("cat", "dog | <b>\n# wolf", "null"),
    recipe={"epochs": 2, "model": {"name": "vt_resnet18", "options": {"num_tokens": 8}}},
)


def front(text):
    start, middle, rest = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(middle), rest


def test_what_the_hub_reads():
    data, _ = front(card_text(CARD, "served", "savedmodel"))
    metrics = [
        {"type": "accuracy", "name": "top1", "value": 0.9725},
        {"type": "top5", "name": "top5", "value": 1.0},
    ]
    assert data == {
        "license": "unknown",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["tfvt", "vt_resnet18", "savedmodel"],
        "metrics": ["accuracy", "top5"],
        "model-index": [
            {
                "name": "vt_resnet18",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "digits: 1", "type": "digits: 1", "split": "validation"},
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    for task, tag in (("segmentation", "image-segmentation"), ("detection", "object-detection")):
        data, text = front(card_text(Card("fpn", task, "r", "validation"), "x.onnx", "onnx"))
        assert data["pipeline_tag"] == tag
        assert "model-index" not in data
        assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Load it", "## Limits"]


def test_what_a_person_reads():
    _, text = front(card_text(CARD, "model.keras", "keras"))
    for line in (
        "# vt_resnet18",
        "| top1 | 0.9725 |",
        "| Parameters | 11,638,952 |",
        "0. cat",
        "1. dog | &lt;b> # wolf",
        'model = keras.models.load_model("model.keras")',
        "    num_tokens: 8",
    ):
        assert line in text.splitlines()
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe == CARD.recipe
    many = card_text(Card("a", "detection", "r", "v", class_names=tuple(map(str, range(60)))), "m", "onnx")
    assert "49. 49\n\nand 10 more\n" in many
    assert "50. 50" not in many


@pytest.mark.parametrize("name", ["<script>", "a\n---\nlicense: mit\n---", "a\r\nb", "caf\udce9", "```\n# title"])
def test_a_name_is_a_name_whatever_it_holds(name, tmp_path):
    card = Card("a", "classification", name, name, {"top1": 0.5}, {"Fact": name}, (name,), {"data": {"records": name}})
    data, text = front(card_text(card, "model.onnx", "onnx"))
    assert data["license"] == "unknown"
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == " ".join(name.split())
    titles = [line for line in text.splitlines() if line.startswith(("#", "---"))]
    assert titles == [
        "# a",
        *(f"## {title}" for title in ("Figures", "Model", "Classes", "Load it", "Training", "Limits")),
    ]
    assert "<script>" not in text.split("```yaml")[0]
    file = tmp_path / "model.onnx"
    assert write_card(file, "onnx", card) == write_card(file, "onnx", card) == tmp_path / "README.md"


@pytest.mark.parametrize(
    ("form", "imported", "path"),
    [
        ("savedmodel", {"tensorflow"}, "a name"),
        ("keras", {"keras", "tfvt"}, "a name"),
        ("onnx", {"onnxruntime"}, "a name"),
        ("openvino", {"openvino"}, "a name/model.xml"),
        ("litert", {"ai_edge_litert.interpreter"}, "a name"),
    ],
)
def test_the_lines_that_load_it_open_the_file_with_its_library(form, imported, path):
    text = card_text(CARD, "a name", form)
    nodes = list(ast.walk(ast.parse(text.split("```python\n")[1].split("```")[0])))
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert modules | {node.module for node in nodes if isinstance(node, ast.ImportFrom)} == imported
    called = [argument.value for node in nodes if isinstance(node, ast.Call) for argument in node.args[:1]]
    assert called == [path]


def test_nothing_of_a_person_is_replaced(tmp_path):
    folder, file = tmp_path / "served", tmp_path / "model.onnx"
    folder.mkdir()
    file.write_bytes(b"")
    assert write_card(folder, "savedmodel", CARD) == folder / "README.md"
    assert write_card(file, "onnx", CARD) == tmp_path / "README.md"
    assert write_card(str(file), "onnx", Card("b", "detection", "r", "v")) == tmp_path / "README.md"  # its own
    ours = (tmp_path / "README.md").read_text()
    assert "# b" in ours.splitlines()
    other = tmp_path / "model.tflite"
    other.write_bytes(b"")
    assert write_card(other, "litert", CARD) == tmp_path / "model.tflite.md"  # README.md is that of model.onnx
    assert (tmp_path / "README.md").read_text() == ours
    for content in (ours.replace("# b", "# my b"), "# My project\n", "\xff"):
        (tmp_path / "README.md").write_bytes(content.encode("latin-1"))
        assert write_card(file, "onnx", CARD) == tmp_path / "model.onnx.md"
        assert (tmp_path / "README.md").read_bytes() == content.encode("latin-1")
    (tmp_path / "model.onnx.md").write_text("mine")
    assert write_card(file, "onnx", CARD) is None
    assert (tmp_path / "model.onnx.md").read_text() == "mine"
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere")  # of a person, though it leads nowhere
    assert write_card(file, "onnx", CARD) is None
    assert os.readlink(tmp_path / "README.md") == str(tmp_path / "elsewhere")
