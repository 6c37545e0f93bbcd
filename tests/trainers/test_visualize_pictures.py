"""`tfvt visualize` on small models, files and images: what is printed, drawn and refused."""

import base64
import csv
import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_masks import write_small_masks
from small_records import write_small_records

import tfvt
from tfvt.analysis import attention_entropy, token_attention
from tfvt.data.classification import ClassificationServing
from tfvt.data.images import EvalPreprocessing
from tfvt.data.records import ENCODED, MASK, feature_spec
from tfvt.trainers.cli import main
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.model import write_model, write_serving

ROOT = Path(__file__).parents[2]
VT = {"width": 8, "depths": (1, 1), "num_modules": 2, "num_tokens": 3, "token_dim": 32, "output_channels": 64}
SWIN = {"depths": (1, 2), "width": 16, "head_dim": 8, "window_size": 4, "input_shape": (32, 32, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models as files, a run, images; all small."""
    folder = tmp_path_factory.mktemp("visualize")
    tokens = tfvt.create_model("vt_resnet18", input_shape=(None, None, 3), num_classes=6, **VT)
    swin = tfvt.create_model("acmix_swin_tiny", num_classes=3, **SWIN)
    plain = tfvt.create_model("resnet18", width=8, depths=(1,), input_shape=(32, 32, 3), num_classes=3)
    vit = tfvt.create_model(
        "vit_tiny16", blocks=[{"layers": 2, "hidden_dim": 64}], input_shape=(32, 32, 3), num_classes=6
    )
    for name, model in {"tokens": tokens, "swin": swin, "plain": plain, "vit": vit}.items():
        model.save(folder / f"{name}.keras")
    run = Run(folder / "run")
    run.folder.mkdir()
    run.recipe.write_text(f"model: {{name: vt_resnet18}}\ndata: {{records: {folder}/none}}\n")
    write_model(run, swin)
    write_serving(run, ClassificationServing(("ant", "bee", "cow & co"), EvalPreprocessing((32, 32))))
    with run.metrics.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train_loss", "train_skipped", "validation_loss", "validation_top1"])
        writer.writerows([[1, 10, 2.0, 0, "", ""], [2, 20, 1.0, 0, 1.5, 0.5]])
    rng = np.random.default_rng(0)
    for name, size in {"one": (48, 40), "large": (700, 300)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype="uint8")).save(folder / f"{name}.png")
    Image.new("RGB", (32, 32), "gray").save(folder / "grey.png")
    (folder / "broken.keras").write_bytes((folder / "plain.keras").read_bytes()[:1000])
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture
def call(folder, tmp_path, monkeypatch, capsys):
    """(exit status, stdout, stderr) of `tfvt visualize ...`, whose words that name a file of the folder are paths."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        words = [str(folder / word) if (folder / str(word)).exists() else str(word) for word in words]
        status = main(["visualize", *words])
        return status, *capsys.readouterr()

    return run


def test_tokens_of_any_size_and_their_entropy(call, folder):
    """The larger image is shown with a longer side of 512 pixels."""
    status, printed, _ = call("tokens", "tokens.keras", "--images", "one.png", "--output", "t.png")
    assert status == 0
    model = keras.models.load_model(folder / "tokens.keras", compile=False)
    pixels = np.asarray(Image.open(folder / "one.png"), "float32")[None]
    maps = token_attention(model, pixels)["vt1_tokenizer"]
    assert maps.shape[1:3] == (6, 5)
    row = re.search(r"^vt1 A +(\S+) +(\S+) +(\S+)%$", printed, re.MULTILINE)
    entropy = attention_entropy(maps).mean()
    np.testing.assert_allclose([float(v) for v in row.groups()[:2]], [entropy, np.log(30)], atol=1e-3)
    assert {line.split("  ")[0] for line in printed.splitlines()[1:-1]} == {"vt1 A", "vt1 Â", "vt2 A", "vt2 Â"}
    assert printed.endswith("picture: t.png\n")
    assert call("tokens", "tokens.keras", "--images", "large.png", "grey.png", "--output", "u.png")[0] == 0
    with Image.open("t.png") as one, Image.open("u.png") as two:
        assert two.height > 1.5 * one.height


def test_attention_on_the_foreground_over_records(call, folder, tmp_path):
    records = write_small_masks(tmp_path / "masks", train=1, validation=3)
    words = ("--images", "one.png", "--records", records, "--background", "0", "4", "--first", "2")
    status, printed, _ = call("tokens", "tokens.keras", *words)
    assert status == 0
    model, sums = keras.models.load_model(folder / "tokens.keras", compile=False), np.zeros((4, 3))
    for example in tf.data.TFRecordDataset(str(records / "validation-00000-of-00001")).take(2):
        features = tf.io.parse_single_example(example, feature_spec([ENCODED, MASK]))
        image, mask = (tf.io.decode_png(features[name]).numpy() for name in (ENCODED, MASK))
        maps = token_attention(model, image[None].astype("float32"))["vt1_tokenizer"][0]
        for row, column in np.ndindex(maps.shape[:2]):
            cell = mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            for number, inside in enumerate((np.isin(cell, (1, 2, 3)).mean(), np.isin(cell, (0, 4)).mean())):
                sums[number] += maps[row, column] * inside
                sums[2 + number] += inside / maps[..., 0].size
    expected = (sums[0].sum() / sums[2, 0]) / (sums[1].sum() / sums[3, 0])
    row = re.search(r"^vt1 +(\S+)% +(\S+)% +(\S+) \((\S+)%\)", printed, re.MULTILINE)
    shares = 100 * np.array([sums[0].sum() / sums[:2].sum(), sums[2, 0] / sums[2:, 0].sum()])
    np.testing.assert_allclose([float(value) for value in row.groups()[:2]], shares, atol=0.06)
    np.testing.assert_allclose(
        [float(value) for value in row.groups()[2:]], [expected, 100 * expected - 100], atol=0.06
    )
    status, _, line = call("tokens", "tokens.keras", *words[:4], "--background", "0", "1", "2", "3", "4")
    assert (status, "show no foreground (--background says which classes are)" in line) == (2, True)


def test_records_without_masks_are_named(call, tmp_path):
    records = write_small_records(tmp_path / "classes", train=2, validation=2)
    status, _, line = call("tokens", "tokens.keras", "--images", "one.png", "--records", records)
    assert (status, line.count("\n")) == (2, 1)
    assert "validation-00000-of-00002 has no mask" in line


def test_the_commands_of_the_page_run(call, folder, tmp_path):
    """With small models in place of the page's runs: a name of a run says of which kind."""
    page = (ROOT / "docs" / "visualize.md").read_text(encoding="utf-8")
    commands = re.findall(r"^tfvt visualize ((?!rates).*)$", page, re.MULTILINE)
    masks = write_small_masks(tmp_path / "masks", train=1, validation=2)
    kinds = {
        "runs/demo/run": "tokens.keras",
        "runs/demo_segmentation/vt_fpn": "tokens.keras",
        "runs/vit": "vit.keras",
        "runs/funnel_vit": "vit.keras",
    }
    for command in commands:
        picture, *words = command.split()
        if picture == "curves":
            words = ["run" if word.startswith("runs/") else word for word in words]
        else:
            words = [kinds.get(word, str(masks) if word.endswith("/records") else word) for word in words]
            words += [] if picture == "classes" else ["--images", "grey.png"]
        assert call(picture, *words, *(["--steps", "1"] if picture in ("classes", "gallery") else []))[0] == 0, command
    written = {path.name for path in tmp_path.glob("*.png")} | {path.name for path in tmp_path.glob("**/gallery.html")}
    assert written == {
        re.search(r"--output (\S+)", c)[1].rpartition("/")[2].replace("gallery", "gallery.html") for c in commands
    }


def test_attention_and_localness_of_a_run(call):
    assert call("attention", "run", "--images", "one.png", "--place", "0", "1")[1] == "picture: attention.png\n"
    status, printed, _ = call("localness", "run", "swin.keras", "--images", "one.png", "grey.png")
    assert status == 0
    rows = [re.split(r"  +", line) for line in printed.splitlines()]
    assert rows[0] == ["model", "layer", "mean over heads", "deviation", "if uniform"]
    assert [row[1] for row in rows[1:-1]] == ["stage1_block1", "stage2_block1", "stage2_block2"] * 2
    assert all(0 <= float(row[2]) <= 1 for row in rows[1:-1])


def test_saliency_of_two_models_and_class_images(call):
    assert call("saliency", "run", "plain.keras", "--images", "one.png", "grey.png", "--output", "s.svg")[0] == 0
    drawn = Path("s.svg").read_text()
    assert "<svg" in drawn
    assert call("classes", "run", "--classes", "1", "2", "--steps", "2", "--output", "c.pdf")[0] == 0
    assert Path("c.pdf").read_bytes().startswith(b"%PDF")


def test_curves_of_a_run_that_has_not_ended(call, folder, tmp_path):
    assert call("curves", "run")[1] == "picture: curves.png\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "recipe.yaml").write_text("epochs: 1\n")
    for text, message in (
        (None, "has no metrics.csv: its first epoch has not ended"),
        ("", "holds no epoch to draw"),
        ("epoch,step\n1,10\n", "holds no epoch to draw"),
        ("epoch,step,train_loss\n1,10,many\n", "is damaged"),
        ("epoch,step,train_loss\n1,10\n", None),  # cut off in its last line
    ):
        if text is not None:
            (empty / "metrics.csv").write_text(text)
        status, _, line = call("curves", "run", empty)
        assert (status, message is None or message in line) == (2 if message else 0, True)


def test_the_gallery_has_all_that_applies(call):
    status, printed, _ = call("gallery", "run", "--images", "one.png", "--steps", "2")
    assert (status, printed) == (0, "6 pictures, 2 that do not apply: gallery/gallery.html\n")
    page = Path("gallery/gallery.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 6
    for text, content in pictures:
        assert len(text) > 20
        assert min(Image.open(io.BytesIO(base64.b64decode(content))).size) > 100
    for title in ("Training curves", "Attention of the layers", "How local attention is", "Saliency", "Rates of"):
        assert f">{title}" in page
    assert "tokens: acmix_swin_tiny has no tokenizer" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page needs another file"
    assert len(re.findall(r'id="([^"]+)"', page)) == len(set(re.findall(r'id="([^"]+)"', page)))
    assert call("gallery", "plain.keras", "--images", "grey.png", "--steps", "1", "--output", "other")[0] == 0
    assert "curves: a file has no run" in Path("other/gallery.html").read_text(encoding="utf-8")


def test_help_lists_every_picture(capsys):
    for words, expected in (
        (["--help"], "gallery"),
        (["tokens", "--help"], "--background CLASS"),
        (["classes", "-h"], "--steps"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["visualize", *words])
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tokens", "plain.keras", "--images", "one.png"), "plain.keras: resnet18 has no tokenizer"),
        (("attention", "tokens.keras", "--images", "one.png"), "has no attention of patches or windows"),
        (("tokens", "broken.keras", "--images", "one.png"), "broken.keras cannot be read as a .keras file"),
        (("tokens", "none.keras", "--images", "one.png"), "none.keras: there is no such file"),
        (("tokens", "text.png", "--images", "one.png"), "text.png cannot be read as a .keras file"),
        (("tokens", "none"), "none holds no run"),
        (("tokens", "tokens.keras"), "--images: a .keras file brings no images, name some"),
        (("saliency", "run"), "--images: the records of"),
        (("saliency", "plain.keras", "--images", "text.png"), "text.png: neither JPEG nor PNG"),
        (
            ("saliency", "plain.keras", "--images", "one.png", "--label", "3"),
            "class 3: resnet18 has the classes 0 to 2",
        ),
        (("classes", "plain.keras", "--classes", "-1"), "class -1: resnet18 has the classes 0 to 2"),
        (("classes", "plain.keras", "--steps", "0"), "--steps must be at least 1, not 0"),
        (
            ("attention", "swin.keras", "--images", "one.png", "--place", "0", "2"),
            "--place takes two numbers from 0 to 1",
        ),
        (("tokens", "tokens.keras", "--images", "one.png", "--output", "t.gif"), "expected a name that ends in .png"),
        (("tokens", "tokens.keras", "--images", "one.png", "--records", "none"), "none"),
        (("localness", "swin.keras", "plain.keras", "--images", "one.png"), "plain.keras: resnet18 has no attention"),
        (("gallery", "plain.keras", "--images", "one.png", "--steps", "1", "--output", "grey.png"), "grey.png"),
    ],
)
def test_mistakes_are_named(words, message, call, tmp_path):
    status, _, line = call(*words)
    assert status == 2
    assert message in line
    assert line.count("\n") == 1
    assert not list(tmp_path.glob("*.png")), "a picture was written"
