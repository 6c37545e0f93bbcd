"""report.html: its figures are the run's, its pictures the records', and no name can become markup."""

import base64
import csv
import dataclasses
import html
import io
import re
import shutil
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image
from small_records import CLASS_NAMES, TINTS, write_small_records

from tfvt.data.records import ENCODED, LABEL
from tfvt.trainers.cli import main
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.charts import line_chart
from tfvt.trainers.run.folder import Run, start_run
from tfvt.trainers.run.log import Figures, MetricsFile, metric_names
from tfvt.trainers.run.report import write_report
from tfvt.trainers.tasks.classification import Classification
from tfvt.trainers.tasks.confusion import sample_pictures, worst_classes

# 3 of class 0 (2 right), 2 of class 1 (none right), 2 of class 2 (both right), one damaged; none of class 3.
ROWS = {
    "label": np.array([0, 1, 2, -1, 0, 1, 2, 0]),
    "predicted": np.array([0, 0, 2, 1, 3, 2, 2, 0]),
    "probability": np.array([0.5, 0.6, 0.7, 0.9, 0.8, 0.95, 0.4, 0.99], np.float32),
}
NAMES = ("ant", "bee", "cat", "dog")


class Page(HTMLParser):
    """The tags, addresses, cells and captions of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.rows, self.captions, self.open = [], [], [], [], []
        self.feed(text)
        assert self.open == []  # every tag is closed

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        self.rows += [[]] if tag == "tr" else []
        if tag == "td":
            self.rows[-1].append("")
        if tag not in ("meta", "img", "wbr", "line", "polyline", "circle"):
            self.open.append(tag)
        if tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag):
        if tag not in ("line", "polyline", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.rows[-1][-1] += data
        if "figcaption" in self.open:
            self.captions[-1] += data


def test_the_classes_that_are_confused_most_come_first():
    table = worst_classes(ROWS, NAMES)
    assert table.rows == (("bee", "2", "0.0%", "ant (1), cat (1)"), ("ant", "3", "66.7%", "dog (1)"))
    assert table.note == "2 of the 3 classes have images that were taken for another class."


def test_many_classes_are_shortened_to_the_worst():
    labels = np.repeat(np.arange(20), 10)
    predicted = np.where(np.arange(200) % 10 < labels // 2, (labels + 1) % 20, labels)  # the later, the worse
    rows = worst_classes({"label": labels, "predicted": predicted}, [f"class {k}" for k in range(20)]).rows
    assert [row[0] for row in rows] == [f"class {k}" for k in (18, 19, 16, 17, 14, 15, 12, 13, 10, 11)]
    assert rows[0] == ("class 18", "10", "10.0%", "class 19 (9)")


def test_pictures_are_the_surest_mistakes_and_right_answers_from_all_over():
    wrong, right = sample_pictures(ROWS, NAMES)
    assert list(wrong.captions.items()) == [
        (5, "bee, taken for cat (95%)"),
        (4, "ant, taken for dog (80%)"),
        (1, "bee, taken for ant (60%)"),
    ]
    assert list(right.captions) == [0, 2, 6, 7]
    many = {"label": np.zeros(1000, int), "predicted": np.zeros(1000, int), "probability": np.ones(1000)}
    wrong, right = sample_pictures(many, NAMES)
    assert wrong.captions == {}
    assert len(right.captions) == 12
    assert (min(right.captions), max(right.captions)) == (0, 999)


def test_a_chart_draws_the_values_it_gets():
    figure = line_chart("loss", {"train": [(1, 2.0), (2, 1.0), (3, 0.0)], "validation": [(3, 1.0)]})
    (path,) = re.findall(r'class="line0" points="(.*?)"', figure)
    (x1, y1), (x2, y2), (x3, y3) = ([float(part) for part in point.split(",")] for point in path.split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert y1 < y2 < y3  # SVG counts from the top
    dot = re.search(r'<circle class="line1" cx="(.*?)" cy="(.*?)"', figure)
    assert (float(dot[1]), float(dot[2])) == (x3, y2)
    for value in (1e-30, 0.0, -3.0, 1e9):  # a constant
        assert "nan" not in line_chart("rate", {"": [(1, value), (2, value)]})


def sections(text):
    """The HTML after each <h2>, by its title."""
    parts = re.split(r"<h2>(.*?)</h2>", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_of_a_run_says_what_its_files_say(finished_run, records):
    text = (finished_run / "report.html").read_text(encoding="utf-8")
    parts = sections(text)
    with (finished_run / "metrics.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert Page(parts["Epochs"]).rows[1:] == [list(row.values()) for row in epochs]
    last = epochs[-1]
    assert f"top-1 {float(last['validation_top1']):.2%}" in text
    assert text.count("<polyline") == 2 * 3 + 2  # loss and two shares, in both phases; learning rate, speed
    assert html.escape((finished_run / "recipe.yaml").read_text()) in parts["Recipe"]
    origin = dict(Page(parts["Made with"]).rows[1:])
    assert (origin["Keras"], origin["TensorFlow"], origin["NumPy"]) == (
        keras.__version__,
        tf.__version__,
        np.__version__,
    )
    task = Classification(parse_recipe(["--config", str(finished_run / "recipe.yaml")]))
    assert origin["Digest of validation"] == task.validation_records.digest
    assert re.fullmatch(r"\d+:\d\d:\d\d", origin["Time in training steps"])


def test_confusion_and_pictures_are_those_of_the_records(finished_run, records):
    """Against the records as Pillow reads them and Keras' own prediction."""
    model = keras.models.load_model(finished_run / "final.keras")
    images, labels = [], []
    for path in sorted(records.glob("validation-*")):
        for record in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            encoded = features[ENCODED].bytes_list.value[0]
            images.append(np.asarray(Image.open(io.BytesIO(encoded)).resize((32, 32), Image.Resampling.BILINEAR)))
            labels.append(features[LABEL].int64_list.value[0])
    predicted = model.predict(np.stack(images), verbose=0).argmax(axis=1)
    parts = sections((finished_run / "report.html").read_text(encoding="utf-8"))
    shown = {row[0]: row[1:] for row in Page(parts["Confusion of the worst classes"]).rows[1:]}
    for label, name in enumerate(CLASS_NAMES):
        own = predicted[np.array(labels) == label]
        share = (own == label).mean()
        assert (name in shown) == (share < 1)
        if name in shown:
            assert shown[name][:2] == [f"{len(own)}", f"{share:.1%}"]
    page = Page(parts["Right"])
    assert len(page.captions) == min(12, (predicted == labels).sum())
    for address, caption in zip(page.addresses, page.captions, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))))
        tint = np.asarray(image, np.float32).mean(axis=(0, 1)) - 127
        expected = np.array(TINTS[CLASS_NAMES.index(caption.split()[0])], np.float32)
        assert np.abs(tint - expected).max() < 25, caption  # the picture is of the caption's class


def test_the_page_needs_nothing_else_and_comes_out_the_same_again(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    text = (run / "report.html").read_bytes()
    page = Page(text.decode())
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert b"http" not in text
    assert b"url(" not in text
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"Report: {run}/report.html\n"
    assert (run / "report.html").read_bytes() == text


def test_figures_of_nothing_leave_the_others_drawn(tmp_path, records, config):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    recipe = parse_recipe(["--config", str(config), "--data.records", str(records)])
    start_run(run, recipe)
    names = metric_names(Classification.columns)
    log = MetricsFile(run.metrics, names, 0)
    for epoch, loss in ((1, 0.5), (2, float("nan")), (3, 0.25)):
        row = {"epoch": epoch, "step": epoch, "train_loss": loss, "train_top1": float("nan")}
        log.write(dict.fromkeys(names, 0.5) | row)
    write_report(run, Classification(recipe), Figures(1.0, {"top1": 0.0, "top5": 1.0}, 0, []))
    charts = run.report.read_text(encoding="utf-8").partition("<h2>Epochs")[0]
    assert "nan" not in charts
    expected = line_chart("loss", {"train": [(1, 0.5), (3, 0.25)], "validation": [(1, 0.5), (2, 0.5), (3, 0.5)]})
    assert expected in charts


def test_no_name_becomes_markup(config, tmp_path):
    names = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b", "'", "</td>", "ü")
    records = write_small_records(tmp_path / "records", train=12, validation=12)
    recipe = parse_recipe(["--config", str(config), "--data.records", str(records)])
    task, run = Classification(recipe), Run(tmp_path / "<b>run")
    task.validation_records = dataclasses.replace(task.validation_records, class_names=names)
    run.folder.mkdir()
    start_run(run, recipe)
    MetricsFile(run.metrics, metric_names(task.columns), 0).write(
        dict.fromkeys(metric_names(task.columns), 0.5) | {"epoch": 1, "step": 6}
    )
    labels = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0], np.int32)
    rows = {"label": labels, "predicted": (labels + 1) % 6, "probability": np.full(16, 0.5, np.float32)}
    parts = [{name: value[8 * k : 8 * k + 8] for name, value in rows.items()} for k in range(2)]
    write_report(run, task, Figures(1.0, {"top1": 0.0, "top5": 1.0}, 12, parts))
    text = run.report.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 12
    assert "<b>run" not in text
    assert [row[0] for row in page.rows if len(row) == 4] == list(names)
    assert page.rows[1][3] == f"{names[1]} (2)"
    assert yaml.safe_load(html.unescape(re.search(r"<pre>(.*?)</pre>", text, re.DOTALL)[1]))["epochs"] == 25
