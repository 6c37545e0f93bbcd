"""`tfvt visualize` on small models, files and images: what is printed, drawn and refused."""

import base64
import csv
import io
import re

import keras
import numpy as np
import pytest
from PIL import Image

import tfvt
from tfvt.analysis import attention_entropy, token_attention
from tfvt.data.classification import ClassificationServing
from tfvt.data.images import EvalPreprocessing
from tfvt.trainers.cli import main
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.model import write_model, write_serving

VT = {"width": 8, "depths": (1, 1), "num_modules": 2, "num_tokens": 3, "token_dim": 32, "output_channels": 64}
SWIN = {"depths": (1, 2), "width": 16, "head_dim": 8, "window_size": 4, "input_shape": (32, 32, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models as files, a run, images; all small."""
    folder = tmp_path_factory.mktemp("visualize")
    tokens = tfvt.create_model("vt_resnet18", input_shape=(None, None, 3), num_classes=3, **VT)
    swin = tfvt.create_model("acmix_swin_tiny", num_classes=3, **SWIN)
    plain = tfvt.create_model("resnet18", width=8, depths=(1,), input_shape=(32, 32, 3), num_classes=3)
    for name, model in {"tokens": tokens, "swin": swin, "plain": plain}.items():
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
    assert Image.open("u.png").height > 1.5 * Image.open("t.png").height


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
    drawn = open("s.svg").read()
    assert "<svg" in drawn
    assert call("classes", "run", "--classes", "1", "2", "--steps", "2", "--output", "c.pdf")[0] == 0
    assert open("c.pdf", "rb").read(4) == b"%PDF"


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
    page = open("gallery/gallery.html", encoding="utf-8").read()
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
    assert "curves: a file has no run" in open("other/gallery.html", encoding="utf-8").read()


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
        (("gallery", "plain.keras", "--images", "one.png", "--steps", "1", "--output", "one.png/g"), "one.png"),
    ],
)
def test_mistakes_are_named(words, message, call, tmp_path):
    status, _, line = call(*words)
    assert status == 2
    assert message in line
    assert line.count("\n") == 1
    assert not list(tmp_path.glob("*.png")), "a picture was written"
