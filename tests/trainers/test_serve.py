"""What a finished run is used for: its folder and model, `tfvt evaluate`, `predict` and `export`."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from limits import largest_file
from photographs import photograph_on_its_side
from PIL import Image
from small_records import CLASS_NAMES, tinted_image

from tfvt.data import open_records
from tfvt.data.classification import ClassificationServing
from tfvt.errors import UsageError
from tfvt.trainers.cli import main
from tfvt.trainers.run.checkpoint import list_checkpoints, load_checkpoint
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.model import read_serving, write_model


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_damaged_final_model_is_one_line(finished_run, fails, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    content = (run / "final.keras").read_bytes()
    central = content.rindex(b"PK\x01\x02")
    damages = {
        "config": flipped(content, content.index(b'"class_name"')),
        "weights": flipped(content, len(content) // 2),
        "directory": flipped(content, central),
        "method": flipped(content, central + 10),
        "end": flipped(content, content.rindex(b"PK\x05\x06")),
        "cut": content[: len(content) // 2],
        "empty": b"",
    }
    for damage in damages.values():
        (run / "final.keras").write_bytes(damage)
        line = fails("evaluate", run)
        assert f"{run / 'final.keras'} cannot be read, it is damaged or of another Keras (" in line
        assert line.endswith(f"`tfvt train --resume --output {run}` writes it again from the last checkpoint")
        assert len(line) < 700


def test_a_full_disk_leaves_no_half_of_a_final_model(tmp_path, finished_run):
    run, model = Run(tmp_path), keras.models.load_model(finished_run / "final.keras")
    words = rf"cannot write {tmp_path}/final.keras \(.*File too large.*: mend that"
    with largest_file(50_000), pytest.raises(UsageError, match=words):
        write_model(run, model)
    assert list(tmp_path.iterdir()) == []


def last_row(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def test_a_run_folder_holds_what_the_page_says(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert (finished_run / "report.html").stat().st_size > 10_000
    assert (finished_run / "lock").read_bytes() == b""
    files = {"lock", "recipe.yaml", "serving.json", "metrics.csv", "final.keras", "report.html"}
    assert names == files | {"tensorboard", "checkpoints"}
    serving = json.loads((finished_run / "serving.json").read_text())
    assert serving["class_names"] == list(CLASS_NAMES)
    assert serving["preprocessing"] == {"image_size": [32, 32], "crop_ratio": 1.0, "interpolation": "bilinear"}
    assert len(list((finished_run / "checkpoints").iterdir())) == 2
    row = last_row(finished_run)
    assert (row["epoch"], row["step"]) == ("25", "150")
    assert all(float(row[name]) > 0 for name in ("images_per_second", "peak_memory_mib", "train_loss"))
    (events,) = (finished_run / "tensorboard").iterdir()
    tags = {
        value.tag: float(tf.make_ndarray(value.tensor))
        for record in tf.data.TFRecordDataset(str(events))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }
    assert tags["validation/top1"] == pytest.approx(float(row["validation_top1"]))
    assert {"train/loss", "train/top5", "validation/loss", "learning_rate", "steps_per_second"} <= tags.keys()


def test_evaluate_gives_the_figures_of_the_last_epoch(finished_run, fails, capsys, tmp_path):
    assert main(["evaluate", str(finished_run)]) == 0
    row = last_row(finished_run)
    top1, top5 = float(row["validation_top1"]), float(row["validation_top5"])
    assert top1 >= 0.9
    line = capsys.readouterr().out
    assert line.startswith(f"top-1 {top1:.2%}, top-5 {top5:.2%}, loss {float(row['validation_loss']):.4f} on 20 images")
    assert main(["evaluate", str(finished_run), "--split", "train", "--batch_size", "7"]) == 0
    assert "on 48 images of train" in capsys.readouterr().out
    assert "no folder" in fails("evaluate", finished_run, "--records", tmp_path / "none")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished_run, unfinished)
    (unfinished / "final.keras").unlink()
    assert "training has not ended" in fails("evaluate", unfinished)
    (unfinished / "final.keras").write_bytes(b"no model")
    assert f"{unfinished / 'final.keras'} cannot be read" in fails("evaluate", unfinished)


def test_the_final_model_loads_by_itself_with_averaged_weights(finished_run):

    model = keras.models.load_model(finished_run / "final.keras")
    arrays = load_checkpoint(list_checkpoints(finished_run / "checkpoints")[-1]).arrays
    averages = [arrays[name] for name in sorted(arrays) if name.startswith("average/")]
    for weight, average in zip(model.weights, averages, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average)


def break_records(folder, count):
    """Change a byte in each of the first records of every validation shard."""
    for path in map(Path, open_records(folder, "validation").shard_paths):
        lengths = [len(serialized) + 16 for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
        content = bytearray(path.read_bytes())
        for begin in np.cumsum([0, *lengths])[:-1][:count]:
            content[begin + 100] ^= 1
        path.write_bytes(content)


def test_evaluate_skips_damaged_records_as_the_run_did(finished_run, records, fails, capsys, tmp_path):
    run, copy = tmp_path / "run", tmp_path / "records"
    shutil.copytree(finished_run, run)
    shutil.copytree(records, copy)
    shards = len(open_records(copy, "validation").shard_paths)
    break_records(copy, 1)
    assert "record 0 of" in fails("evaluate", run, "--records", copy)
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("skip_damaged: false", "skip_damaged: true"))
    assert main(["evaluate", str(run), "--records", str(copy)]) == 0
    assert f" on {20 - shards} images of validation" in capsys.readouterr().out
    shutil.rmtree(copy)
    shutil.copytree(records, copy)
    break_records(copy, 20)
    assert "none of the validation images can be read" in fails("evaluate", run, "--records", copy)


def test_evaluate_refuses_a_batch_of_nothing(finished_run, fails):
    assert "--batch_size must be at least 1, not 0" in fails("evaluate", finished_run, "--batch_size", "0")


GOOD_SIZE = '"preprocessing": {"image_size": [8, 8], "crop_ratio": 1.0}'


DAMAGED_SERVING = (
    "[]",
    "5",
    '"text"',
    "null",
    "[" * 9999,
    "{}",
    '{"class_names": [], "preprocessing": {"image_size": [8, 8], "crop": 1}}',
    f'{{"class_names": "abc", {GOOD_SIZE}}}',
    f'{{"class_names": 6, {GOOD_SIZE}}}',
    f'{{"class_names": [1, 2], {GOOD_SIZE}}}',
    '{"class_names": ["a"], "preprocessing": 3}',
    '{"class_names": ["a"], "preprocessing": [3]}',
    '{"class_names": ["a"], "preprocessing": {"image_size": 8}}',
    '{"class_names": ["a"], "preprocessing": {"image_size": ["8", "8"]}}',
    '{"class_names": ["a"], "preprocessing": {"image_size": [8, 8], "crop_ratio": "1"}}',
    '{"class_names": ["a"], "preprocessing": {"image_size": [8, 8], "interpolation": []}}',
)


def test_damage_of_any_kind_in_a_serving_file_is_named(tmp_path):
    run = Run(tmp_path)
    run.serving.write_text(f'{{"class_names": ["a"], {GOOD_SIZE}}}')
    assert read_serving(run, ClassificationServing).class_names == ("a",)
    for content in DAMAGED_SERVING:
        run.serving.write_text(content)
        with pytest.raises(UsageError, match=rf"{run.serving} cannot be read"):
            read_serving(run, ClassificationServing)


def test_a_serving_file_of_other_classes_is_named(finished_run, fails, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    serving = json.loads((run / "serving.json").read_text())
    (run / "serving.json").write_text(json.dumps(serving | {"class_names": ["one", "two"]}))
    assert "serving.json does not go with " in fails("predict", run, tmp_path / "red.png")


def test_a_missing_or_damaged_serving_file_is_named(finished_run, fails, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (tmp_path / "red.png").write_bytes(tinted_image(0, np.random.default_rng(5)))
    for content in (None, "{", *DAMAGED_SERVING[:1]):
        if content is None:
            (run / "serving.json").unlink()
        else:
            (run / "serving.json").write_text(content)
        for call in (("evaluate", run), ("predict", run, tmp_path / "red.png"), ("export", run, tmp_path / "served")):
            assert f"{run / 'serving.json'} cannot be read" in fails(*call)


def test_predict_answers_for_every_file_that_is_an_image(finished_run, tmp_path, capsys):
    files = [tmp_path / f"{name}.png" for name in ("red", "green", "blue")]
    for label, file in enumerate(files):
        file.write_bytes(tinted_image(label, np.random.default_rng(5)))
    (tmp_path / "text.jpg").write_text("no image")
    arguments = [files[0], tmp_path / "text.jpg", tmp_path / "none.png", files[1], files[2]]
    assert main(["predict", str(finished_run), *map(str, arguments)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [re.match(r".*/(\w+)\.\w+: (.*?)(:| \d)", line).group(1, 2) for line in lines] == [
        ("red", "red"),
        ("text", "rejected"),
        ("none", "rejected"),
        ("green", "green"),
        ("blue", "blue"),
    ]
    assert "neither JPEG nor PNG" in lines[1]
    assert lines[2].endswith("No such file or directory")
    assert "{{" not in lines[1]
    shares = [float(share) for share in re.findall(r"([\d.]+)%", lines[0])]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert main(["predict", str(finished_run), str(files[0])]) == 0


def test_predict_takes_and_prints_any_file_name(finished_run, tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/gr\xfcn.png"
    with open(name, "wb") as file:
        file.write(tinted_image(1, np.random.default_rng(5)))
    assert main(["predict", str(finished_run), os.fsdecode(name)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/gr\\xfcn.png: green ")


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0, **options)  # as conversion writes
    return file.getvalue()


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_predict_and_the_served_model_agree_on_a_phones_photographs(finished_run, tmp_path, capsys):
    ends = [Image.open(io.BytesIO(tinted_image(label, np.random.default_rng(5)))) for label in (0, 1)]
    stored = Image.new("RGB", (80, 40))
    for place, end in enumerate(ends):
        stored.paste(end, (40 * place, 0))
    files = []
    for value in range(1, 9):
        files.append(photograph_on_its_side(stored, value, subsampling="4:2:0"))  # as phones do
        (tmp_path / f"{value}.jpg").write_bytes(files[-1])
    assert main(["predict", str(finished_run), *(str(tmp_path / f"{value}.jpg") for value in range(1, 9))]) == 0
    lines = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert len(set(lines)) > 2
    assert main(["export", str(finished_run), str(tmp_path / "served")]) == 0
    answer = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"](image=tf.constant(files))
    for line, name, shares in zip(lines, answer["name"].numpy(), answer["probabilities"].numpy(), strict=True):
        assert line.startswith(f"{name.decode()} {shares.max():.2%}")


def test_predict_sees_the_pixels_that_conversion_writes(finished_run, tmp_path, capsys):
    # Another class at each end, so that a picture on its side has another answer.
    ends = [Image.open(io.BytesIO(tinted_image(label, np.random.default_rng(5)))) for label in (0, 1)]
    stored = Image.new("RGB", (80, 40))
    for place, end in enumerate(ends):
        stored.paste(end, (40 * place, 0))
    rotated, cmyk = photograph_on_its_side(stored, 6), jpeg(stored.convert("CMYK"))  # 6: turn clockwise by a quarter
    upright = png(Image.open(io.BytesIO(rotated)).transpose(Image.Transpose.ROTATE_270))
    rgb = jpeg(Image.open(io.BytesIO(cmyk)).convert("RGB"))
    files = {"rotated": rotated, "upright": upright, "stored": jpeg(stored), "cmyk": cmyk, "rgb": rgb}
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    assert main(["predict", str(finished_run), *(str(tmp_path / f"{name}.jpg") for name in files)]) == 0
    lines = capsys.readouterr().out.splitlines()
    answers = dict(zip(files, (line.partition(": ")[2] for line in lines), strict=True))
    assert answers["rotated"] == answers["upright"] != answers["stored"]
    assert answers["cmyk"] == answers["rgb"]


def test_predict_reads_the_formats_that_conversion_reads(finished_run, tmp_path, capsys):
    image = Image.open(io.BytesIO(tinted_image(1, np.random.default_rng(5))))
    files = [str(tmp_path / f"green.{kind}") for kind in ("webp", "bmp", "gif")]
    for file in files:
        image.save(file)
    assert main(["predict", str(finished_run), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.match(r".*: (\w+) [\d.]+%", line)[1] for line in lines] == ["green"] * 3


def test_predict_rejects_half_a_jpeg_with_an_end_marker(finished_run, tmp_path, capsys):
    whole = jpeg(Image.open(io.BytesIO(tinted_image(1, np.random.default_rng(5)))))
    files = {"whole": whole, "half": whole[: len(whole) // 2], "ended": whole[: len(whole) // 2] + b"\xff\xd9"}
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    assert main(["predict", str(finished_run), *(str(tmp_path / f"{name}.jpg") for name in files)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ": green " in lines[0]
    assert lines[1].endswith("half.jpg: rejected: JPEG is cut off: it has no end-of-image marker")
    assert "ended.jpg: rejected: JPEG decodes with made-up pixels: Corrupt JPEG data: premature end" in lines[2]


def test_a_disk_that_fills_while_exporting_is_one_line(finished_run, tmp_path, fails):
    with largest_file(100_000):
        line = fails("export", finished_run, tmp_path / "served")
    assert re.search(rf"error: cannot write {tmp_path}/served: .*File too large", line)
    assert list(tmp_path.iterdir()) == []


def test_the_limit_of_pixels_is_a_flag_of_export(finished_run, tmp_path, fails):
    call = ("export", str(finished_run), str(tmp_path / "served"), "--max_pixels")
    assert "max_pixels=0: expected an integer of at least 1" in fails(*call, "0")
    assert main([*call, "1599"]) == 0
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="has 40 x 40 pixels: the limit is 1599"):
        serve(image=tf.constant([tinted_image(0, np.random.default_rng(5))]))


def test_export_serves_the_same_probabilities(finished_run, tmp_path, capsys, fails):
    assert main(["export", str(finished_run), str(tmp_path / "served")]) == 0
    encoded = tinted_image(1, np.random.default_rng(5))
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    answer = served(image=tf.constant([encoded]))
    (tmp_path / "green.png").write_bytes(encoded)
    capsys.readouterr()
    main(["predict", str(finished_run), str(tmp_path / "green.png")])
    best = re.search(r": green ([\d.]+)%", capsys.readouterr().out)
    assert answer["name"].numpy()[0] == b"green"
    assert float(best[1]) == pytest.approx(100 * float(answer["probabilities"][0, 1]), abs=0.01)
    assert "not empty" in fails("export", finished_run, tmp_path / "served")
