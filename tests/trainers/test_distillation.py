"""Distillation: its loss, what a teacher can be, what is refused, and runs with a teacher."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from small_records import CLASS_NAMES
from teacher_files import NAMES, SIZE, WIDE, pixels
from test_resume import logged, newest
from test_seams import state_of, stop_in_step

import tfvt
from tfvt.data.classification import ClassificationServing
from tfvt.data.images import EvalPreprocessing
from tfvt.errors import UsageError
from tfvt.export import export_saved_model
from tfvt.trainers.cli import main
from tfvt.trainers.engines.tensorflow import TensorFlowDevices, TensorFlowEngine
from tfvt.trainers.recipes.distillation import DistillationRecipe
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.distillation import Distillation, hard_loss, soft_loss, training_task
from tfvt.trainers.tasks.teacher import Teacher

ORDER = [NAMES.index(name) for name in CLASS_NAMES]
PLAIN = ["--model.options.dropout_rate=0", "--model.options.drop_path_rate=0", "--ema_decay=null"]
HERE = ["--deterministic=false"]  # what a run sets for its whole process would outlive the test


def logits(seed, count=8, classes=6):
    return np.random.default_rng(seed).normal(0, 2, (count, classes)).astype("float32")


def log_softmax(values):
    values = values.astype("float64")
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def numpy_kl(teacher, student):
    expected, found = log_softmax(teacher), log_softmax(student)
    return (np.exp(expected) * (expected - found)).sum(-1)


def teach(folder, images, class_names=CLASS_NAMES, **settings):
    """A teacher's answers to `images`."""
    recipe = DistillationRecipe(**{key: str(value) if key in ("teacher", "weights", "classes") else value
                                   for key, value in settings.items()})  # fmt: skip
    return np.asarray(Teacher(recipe, class_names, images.shape[1:3])(images))


# ---- the loss


def keras_distillation(temperature):
    """Keras' loss, given as an object: its default, the name "kl_divergence", takes logits for probabilities."""
    return keras.distillation.LogitsDistillation(temperature, loss=keras.losses.KLDivergence())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_soft_loss_is_the_scaled_divergence(temperature):
    student, teacher = logits(0), logits(1)
    expected = temperature**2 * numpy_kl(teacher / temperature, student / temperature)
    found = soft_loss(tf.constant(student), tf.constant(teacher), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    theirs = keras_distillation(temperature).compute_loss(teacher, student)
    np.testing.assert_allclose(np.mean(found), theirs, rtol=1e-5)


def test_the_hard_loss_is_cross_entropy_with_the_first_class():
    student, teacher = logits(0), logits(1)
    expected = -log_softmax(student)[np.arange(8), teacher.argmax(-1)]
    np.testing.assert_allclose(hard_loss(tf.constant(student), tf.constant(teacher)), expected, rtol=1e-5)


def task_of(config, *flags):
    return training_task(parse_recipe(["--config", str(config), *flags]))


def test_the_default_shares_are_those_of_keras_distiller_with_a_fifth_for_the_labels(config, teachers):
    """Keras computes 0.2 of the labels' loss and 0.8 of the teacher's. It smooths no labels."""
    task = task_of(config, f"--distillation.teacher={teachers / 'run'}", "--distillation.temperature=2")
    task.task.recipe = dataclasses.replace(task.recipe, label_smoothing=0.0)
    student, teacher, labels = logits(0), logits(1), np.arange(8, dtype="int32") % 6
    batch = {"label": tf.constant(labels), "teacher": tf.constant(teacher)}
    losses = task.loss(tf.constant(student), batch, training=True)

    table = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, use_bias=False)])
    table.set_weights([teacher])
    distiller = keras.distillation.Distiller(
        teacher=table,
        student=keras.models.clone_model(table),
        distillation_losses=keras_distillation(2.0),
        student_loss_weight=0.2,
    )
    distiller.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    theirs = distiller.compute_loss(np.eye(8, dtype="float32"), labels, tf.constant(student))
    np.testing.assert_allclose(np.mean(losses), theirs, rtol=1e-5)


def test_evaluation_is_without_the_teacher(config, teachers):
    task = task_of(config, f"--distillation.teacher={teachers / 'run'}")
    batch = {"label": tf.constant([1, 2])}
    expected = -log_softmax(logits(0, 2))[[0, 1], [1, 2]]
    np.testing.assert_allclose(task.loss(tf.constant(logits(0, 2)), batch, training=False), expected, rtol=1e-5)


def test_a_run_without_a_teacher_has_the_plain_task(config):
    assert type(task_of(config)).__name__ == "Classification"


# ---- the teacher


@pytest.mark.parametrize("size", [(48, 40), (24, 24), (100, 90)])
def test_the_teacher_sees_resized_pixels_and_answers_in_the_records_order(network, teachers, size):
    images = pixels(1, size)
    resized = tf.image.resize(images, (48, 40), antialias=True)
    expected = network(resized, training=False).numpy()[:, ORDER]
    np.testing.assert_allclose(teach(teachers, images, teacher=teachers / "run"), expected, rtol=1e-4, atol=1e-4)


def test_every_form_of_a_teacher_gives_the_same(network, teachers):
    images = pixels(2, (48, 40))
    expected = network(images, training=False).numpy()[:, ORDER]
    named = {"teacher": "resnet18", "weights": teachers / "teacher.keras", "options": WIDE, "image_size": (48, 40)}
    forms = [{"teacher": teachers / "run"}]
    for form in ({"teacher": teachers / "teacher.keras"}, {"teacher": teachers / "saved"}, named):
        forms.append(form | {"classes": teachers / "names.txt"})
    for form in forms:
        found = teach(teachers, images, **form)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=str(form))


def test_some_of_the_teachers_classes_will_do(network, teachers):
    images = pixels(2, (48, 40))
    expected = network(images, training=False).numpy()[:, [2, 0]]
    found = teach(teachers, images, ("red", "grey"), teacher=teachers / "run")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_probabilities_become_logits(network, teachers):
    images = pixels(2, (48, 40))
    found = teach(teachers, images, teacher=teachers / "probable.keras", classes=teachers / "names.txt")
    expected = log_softmax(network(images, training=False).numpy()[:, ORDER])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_other_pixels_are_given_as_the_recipe_says(tmp_path):
    """A teacher of any size whose answers are the means of its three channels."""
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    model.save(tmp_path / "means.keras")
    images, mean, std = pixels(3), (123.0, 116.0, 104.0), (58.0, 57.0, 56.0)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    settings = {"teacher": tmp_path / "means.keras", "classes": tmp_path / "names.txt"}
    found = teach(tmp_path, images, ("a", "b", "c"), **settings, pixel_mean=mean, pixel_std=std)
    np.testing.assert_allclose(found, ((images - mean) / std).mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_a_teacher_without_names_says_so(teachers, caplog, network):
    images = pixels(2, (48, 40))
    found = teach(teachers, images, teacher=teachers / "teacher.keras")
    np.testing.assert_allclose(found, network(images, training=False), rtol=1e-4, atol=1e-5)
    assert "teacher.keras has no class names: its 6 outputs are taken to be in the order of the records'" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "{}/none"}, r"/none is no teacher: expected the folder of a run, a .keras file, .* `tfvt models`"),
        ({"teacher": "{}/names.txt"}, r"names.txt is no teacher"),
        ({"teacher": "{}/damaged.keras"}, r"damaged.keras cannot be read, it is damaged"),
        ({"teacher": "{}/unfinished"}, r"unfinished has no final.keras, since training has not ended"),
        ({"teacher": "{}/damaged"}, r"damaged cannot be read, it is damaged"),
        ({"teacher": "{}/bytes"}, r"bytes: its signature .* the inputs \['image'\] .*label.* give the run's folder"),
        ({"teacher": "{}/map.keras"}, r"map.keras gives outputs of shape \(8, 8, 3\) for an image"),
        ({"teacher": "{}/grey.keras"}, r"^distillation.teacher: \S+grey.keras takes \(None, 8, 8, 1\): e"),
        ({"teacher": "{}/nan.keras"}, r"nan.keras gives outputs that are not finite"),
        ({"teacher": "{}/five.keras"}, r"five.keras has 5 outputs without names, and the records have 6 classes: dis"),
        (
            {"teacher": "{}/five.keras", "classes": "{}/names.txt"},
            r"five.keras has 5 outputs and 6 class names",
        ),
        ({"teacher": "{}/teacher.keras", "classes": "{}/other.txt"}, r"knows no class 'red', which .* \(2 such of 6\)"),
        ({"teacher": "{}/teacher.keras", "classes": "{}/twice.txt"}, r"more than one class 'grey', which .* \(2 such"),
        ({"teacher": "{}/run", "classes": "{}/none.txt"}, r"distillation.classes: cannot read .*none.txt: .*No such"),
        ({"teacher": "{}/run", "image_size": (64, 64)}, r"image_size \(64, 64\): the teacher takes .*\(48, 40\)"),
        ({"teacher": "resnet18"}, r"resnet18 is the name of a model: distillation.weights says the file of"),
        (
            {"teacher": "resnet18", "weights": "{}/none.keras"},
            r"^distillation.weights: no checkpoint file .*none",
        ),
        (
            {"teacher": "resnet18", "weights": "{}/five_classes.keras", "options": WIDE},
            r"has nothing for head/kernel, head/bias of resnet18 with 6 classes: distillation.classes takes",
        ),
        ({"teacher": "{}/run", "weights": "a.keras"}, r"distillation.weights goes with a teacher by its model's name"),
        ({"teacher": "{}/run", "options": WIDE}, r"distillation.options goes with a teacher by its model's name"),
        ({"teacher": "resnet18", "options": {"widht": 8}}, r"no key distillation.options.widht; did you mean .*width"),
        ({"teacher": "{}/run", "kind": "hard", "temperature": 3.0}, r"distillation.temperature is for kind soft"),
    ],
)
def test_what_cannot_teach_is_named(bad_teachers, settings, message):
    settings = {key: value.format(bad_teachers) if isinstance(value, str) else value for key, value in settings.items()}
    with pytest.raises(UsageError, match=message):
        teach(bad_teachers, pixels(0), **settings)


@pytest.fixture(scope="module")
def bad_teachers(tmp_path_factory, teachers, network):
    folder = tmp_path_factory.mktemp("bad") / "teachers"
    shutil.copytree(teachers, folder)
    content = (folder / "teacher.keras").read_bytes()
    (folder / "damaged.keras").write_bytes(content[: len(content) // 2])
    (folder / "unfinished").mkdir()
    shutil.copy(folder / "run" / "recipe.yaml", folder / "unfinished")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "saved_model.pb").write_bytes(b"nothing")
    export_saved_model(network, folder / "bytes", ClassificationServing(NAMES, EvalPreprocessing((48, 40))))
    layers = keras.layers
    keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 1)]).save(folder / "map.keras")
    keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6)]).save(folder / "grey.keras")
    pooled = [keras.Input((None, None, 3)), layers.GlobalAveragePooling2D()]
    keras.Sequential([*pooled, layers.Dense(5)]).save(folder / "five.keras")
    diverged = keras.Sequential([*pooled, layers.Dense(6, bias_initializer=keras.initializers.Constant(np.inf))])
    diverged.save(folder / "nan.keras")
    tfvt.create_model("resnet18", num_classes=5, **WIDE).save(folder / "five_classes.keras")
    (folder / "other.txt").write_text("\n".join(["crimson", "azure", *NAMES[1:2], "grey", "black", "green"]))
    (folder / "twice.txt").write_text("\n".join([*CLASS_NAMES[:4], "grey", "black"]))
    return folder


# ---- runs


@pytest.mark.parametrize(
    ("form", "kind", "compiled"),
    [("run", "soft", "false"), ("run", "hard", "false"), ("saved", "soft", "false"), ("run", "soft", "true")],
)
def test_a_step_is_taught_and_the_teacher_stays_apart(config, teachers, network, form, kind, compiled):
    flags = [f"--distillation.teacher={teachers / form}", f"--distillation.kind={kind}", "--label_smoothing=0", *PLAIN]
    flags += [f"--distillation.classes={teachers / 'names.txt'}", f"--jit_compile={compiled}"]
    task = task_of(config, *flags)
    assert isinstance(task, Distillation)
    engine = TensorFlowEngine(task.recipe, task, 6, TensorFlowDevices(task.recipe.distribution))
    images, labels = pixels(4), np.arange(8, dtype="int32") % 6
    student = engine.model(images, training=True).numpy()
    teacher = network(tf.image.resize(images, (48, 40), antialias=True), training=False).numpy()[:, ORDER]
    target = log_softmax(student)[np.arange(8), teacher.argmax(-1)]
    taught = numpy_kl(teacher, student) if kind == "soft" else -target
    expected = 0.8 * taught - 0.2 * log_softmax(student)[np.arange(8), labels]
    before = [weight.numpy() for weight in network.weights]
    digest = task.digests()["teacher"]
    engine.train_steps(iter([{"image": tf.constant(images), "label": tf.constant(labels)}]), 1)
    np.testing.assert_allclose(engine.read_sums("train")["loss"], expected.sum(), rtol=1e-4)
    plain = TensorFlowEngine(task.recipe, task.task, 6, TensorFlowDevices(task.recipe.distribution))
    assert [array.shape for array in engine.state().values()] == [array.shape for array in plain.state().values()]
    if form == "run":
        assert Teacher(task.recipe.distillation, CLASS_NAMES, SIZE).digest == digest
        after = task.teacher.source.apply.__closure__[0].cell_contents.weights
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(old, new.numpy())


def test_a_taught_run_resumes_bit_equal_and_needs_the_same_teacher(config, teachers, tmp_path, monkeypatch, fails):
    shutil.copytree(teachers, tmp_path / "teachers")
    monkeypatch.chdir(tmp_path)
    flags = ["--config", str(config), "--epochs=2", *HERE, "--distillation.teacher=teachers/run"]
    assert main(["train", *flags, "--output", "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_in_step(patch, 9)
        assert main(["train", *flags, "--output", "stopped"]) == 130
    recipe = yaml.safe_load((tmp_path / "stopped" / "recipe.yaml").read_text())
    assert recipe["distillation"]["teacher"] == str(tmp_path / "teachers" / "run")
    assert newest(tmp_path / "stopped").digests["teacher"]
    monkeypatch.chdir("/")

    final, stopped = tmp_path / "teachers" / "run" / "final.keras", tmp_path / "stopped"
    final.rename(final.with_name("hidden"))
    assert "distillation.teacher: " in fails("train", "--resume", "--output", stopped)
    other = tfvt.create_model("resnet18", num_classes=6, input_shape=(48, 40, 3), **WIDE)
    other.save(final)
    line = fails("train", "--resume", "--output", stopped)
    assert re.search(r"this run began with other teacher data: their digest is \w{64}, and \w{64} in .*step-0+9", line)
    final.with_name("hidden").rename(final)

    assert main(["train", "--resume", "--output", str(stopped)]) == 0
    assert state_of(stopped) == state_of(tmp_path / "whole")
    assert logged(stopped) == logged(tmp_path / "whole")
    shutil.rmtree(tmp_path / "teachers")  # what is trained needs it no more
    assert main(["evaluate", str(stopped)]) == 0
    student = keras.models.load_model(stopped / "final.keras", compile=False)
    assert student.input_shape == (None, 32, 32, 3)
    plain = tfvt.create_model("resnet18", num_classes=6, input_shape=(32, 32, 3), **recipe["model"]["options"])
    assert [weight.path for weight in student.weights] == [weight.path for weight in plain.weights]


def test_a_teacher_in_the_way_or_of_other_classes_ends_before_the_folder_is_touched(config, teachers, tmp_path, fails):
    shutil.copytree(teachers / "run", tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    train = ("train", "--config", config, *HERE)
    for more in ((), ("--overwrite",)):
        line = fails(*train, "--output", tmp_path / "run", f"--distillation.teacher={tmp_path / 'run'}", *more)
        assert "distillation.teacher" in line
        assert "lies inside --output" in line
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    serving = tmp_path / "run" / "serving.json"
    serving.write_text(serving.read_text().replace('"red"', '"crimson"'))
    line = fails(*train, "--output", tmp_path / "new", f"--distillation.teacher={tmp_path / 'run'}")
    assert "distillation.teacher: " in line
    assert "knows no class 'red', which the records have (1 such of 6)" in line
    line = fails(*train, "--output", tmp_path / "new", "--distillation.kind=hard")
    assert (
        "distillation.kind is set and distillation.teacher is not: name a teacher, or set distillation.kind to" in line
    )
    assert "distillation.teacher_share must be from 0 to 1, not 1.5" in fails(
        *train, "--output", tmp_path / "new", "--distillation.teacher_share=1.5"
    )
    assert not (tmp_path / "new").exists()


ON_JAX = """
import sys
import jax
import numpy as np
from tfvt.errors import UsageError
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.distillation import training_task

*flags, data, saved = sys.argv[1:]
task = training_task(parse_recipe(flags))
student = task.model()
weights, others = ([v.value for v in vs] for vs in (student.trainable_variables, student.non_trainable_variables))

@jax.jit
def step(weights, batch):
    batch = task.teach(batch)
    def loss(weights):
        outputs, _ = student.stateless_call(weights, others, batch["image"], training=True)
        return task.loss(outputs, batch, training=True).mean()
    return jax.value_and_grad(loss)(weights)

loss, gradients = step(weights, dict(np.load(data)))
print(float(loss), *(float(abs(gradient).sum()) for gradient in gradients))
try:
    training_task(parse_recipe([*flags, f"--distillation.teacher={saved}"])).model()
except UsageError as error:
    print(error)
"""


def test_the_same_loss_and_gradients_on_jax(config, teachers, tmp_path):
    student = task_of(config, *PLAIN).model()
    student.save(tmp_path / "student.keras")
    flags = [f"--distillation.teacher={teachers / 'run'}", f"--model.weights={tmp_path / 'student.keras'}", *PLAIN]
    task = task_of(config, *flags)
    student = task.model()
    batch = {"image": pixels(6), "label": np.arange(8, dtype="int32") % 6}
    np.savez(tmp_path / "batch.npz", **batch)
    batch = task.teach({name: tf.constant(value) for name, value in batch.items()})
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(task.loss(student(batch["image"], training=True), batch, training=True))
    gradients = tape.gradient(loss, [v.value for v in student.trainable_variables])
    result = subprocess.run(
        [sys.executable, "-c", ON_JAX, "--config", config, *flags, tmp_path / "batch.npz", teachers / "saved"],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    numbers, refusal = result.stdout.splitlines()
    found, *sums = map(float, numbers.split())
    assert found == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(sums, [np.abs(gradient).sum() for gradient in gradients], rtol=1e-3, atol=1e-5)
    assert "saved is a SavedModel, which TensorFlow alone runs; KERAS_BACKEND is 'jax'" in refusal


def test_a_model_of_another_task_takes_no_teacher(config, teachers, monkeypatch):
    from mean_colour import MeanColour

    from tfvt.trainers.tasks import distillation

    monkeypatch.setattr(distillation, "task_class", lambda name: MeanColour)
    with pytest.raises(UsageError, match=r"distillation.teacher: resnet18 is no classifier"):
        task_of(config, f"--distillation.teacher={teachers / 'run'}")
