"""Recipes: keys, types, choices, options of models, and every file in configs/."""

from pathlib import Path

import numpy as np
import pytest

from tfvt import configs, registry
from tfvt.errors import UsageError
from tfvt.trainers.engines.optimizer import Schedule
from tfvt.trainers.recipes.distillation import DistillationRecipe
from tfvt.trainers.recipes.parsing import parse_recipe, recipe_parser, write_recipe
from tfvt.trainers.recipes.plain import as_plain, flatten
from tfvt.trainers.recipes.recipe import OPTIMIZER_OPTIONS, SCHEDULE_OPTIONS
from tfvt.trainers.tasks.classification import ClassificationRecipe

CONFIGS = sorted(Path(configs.__file__).parent.glob("*.yaml"))
NEEDED = ["--model.name", "vt_resnet18", "--data.records", "somewhere"]


def test_flags_override_the_file(config):
    recipe = parse_recipe(["--config", str(config), "--optimizer.learning_rate", "0.5", "--epochs=7"])
    assert recipe.optimizer.learning_rate == 0.5
    assert recipe.epochs == 7
    assert recipe.optimizer.weight_decay == 4e-5
    assert recipe.data.train.image_size == (32, 32)
    assert recipe.model.options["depths"] == (1, 1, 1, 1)


def test_a_written_recipe_reads_back_equal(config, tmp_path):
    recipe = parse_recipe(["--config", str(config), "--optimizer.name", "rmsprop", "--model.options.width", "16"])
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert parse_recipe(["--config", str(tmp_path / "recipe.yaml")]) == recipe


def test_options_left_out_get_the_named_optimizers_defaults():
    recipe = parse_recipe([*NEEDED, "--optimizer.name", "rmsprop", "--schedule.name", "exponential"])
    assert recipe.optimizer.options == {"rho": 0.9, "momentum": 0.9, "epsilon": 1e-3}
    assert recipe.optimizer.nesterov is None
    assert (recipe.schedule.decay_factor, recipe.schedule.decay_epochs) == (0.9875, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochz", "3"], r"no key epochz; did you mean epochs"),
        (["--optimizer.learnin_rate", "1"], r"no key optimizer.learnin_rate; did you mean optimizer.learning_rate"),
        (["--optimiser.learning_rate", "1"], r"no key optimiser.learning_rate; did you mean optimizer.learning_rate"),
        (["--data.train.image_sise", "[8,8]"], r"data.train.image_sise; did you mean data.train.image_size"),
        (["--model.options.tokenz", "8"], r"no key model.options.tokenz; did you mean model.options.token"),
        (["--model.options.num_classes", "8"], r"no key model.options.num_classes"),
        (["--model.options.num_tokens", "many"], r"model.options.num_tokens.*int.*many"),
        (["--model.options.tokenizer", "none"], r"model.options.tokenizer.*filter.*cluster.*pool.*none"),
        (["--model.name", "vt_resnet19"], r"model.name.*vt_resnet19.*vt_resnet18"),
        (["--epochs", "many"], r"epochs.*int.*many"),
        (["--epochs", "0"], r"epochs must be at least 1, not 0"),
        (["--data.block_size", "0"], r"data.block_size must be at least 1, not 0"),
        (["--seed", "4294967296"], r"seed must be from 0 to 4294967295, not 4294967296"),
        (["--seed", "99999999999999999999"], r"seed must be from 0 to 4294967295"),
        (["--label_smoothing", "1.5"], r"label_smoothing must be at least 0 and below 1, not 1.5"),
        (["--optimizer.name", "adm"], r"optimizer.name.*sgd.*rmsprop.*adm"),
        (["--optimizer.rho", "0.5"], r"optimizer.rho is not an option of sgd \(it belongs to: rmsprop\)"),
        (["--schedule.decay_epochs", "3"], r"schedule.decay_epochs is not an option of constant"),
        (["--schedule.warmup_epochs", "90"], r"schedule.warmup_epochs \(90\) must be less than epochs \(90\)"),
        (["--data.evaluation.crop_ratio", "2"], r"data.*crop_ratio must be"),
        (["--data.evaluation.image_size", "[64,64]"], r"data.train.image_size \(224, 224\).*image_size \(64, 64\)"),
        (["--optimizer.lr", "1"], r"no key optimizer.lr; did you mean optimizer.learning_rate\?"),
        (["--lr", "1"], r"no key lr; did you mean optimizer.learning_rate\?"),
        (["--wd", "1"], r"no key wd; did you mean optimizer.weight_decay\?"),
        (["--data.bs", "1"], r"no key data.bs; did you mean data.batch_size\?"),
        (["--batch", "1"], r"no key batch; did you mean data.batch_size\?"),
        (["--max_epochs", "1"], r"no key max_epochs; did you mean epochs\?"),
        (["--data.block_size", str(2**70)], r"data.block_size must be at most 2147483647, not 1180591620717411303424"),
        (["--model.options.width", str(2**31)], r"model.options.width must be at most 2147483647, not 2147483648"),
        (["--model.options.pixel_mean", "[0, .nan, 0]"], r"model.options.pixel_mean must be finite, not nan"),
        (["--model.options.batch_norm_epsilon", ".inf"], r"model.options.batch_norm_epsilon must be finite, not inf"),
        (["--optimizer.learning_rate", "1e39"], r"learning_rate must be finite and at most 3.4e\+38, not 1e\+39"),
        (["--optimizer.epsilon=-1e-8"], r"optimizer.epsilon must be above 0 \(in float32\), not -1e-08"),
        (["--optimizer.epsilon", "1e-60"], r"optimizer.epsilon must be above 0 \(in float32\), not 1e-60"),
        (
            ["--data.train.image_size", "[224, 10000000]"],
            r"image_size must be two numbers of pixels, integers from 1 to \d+, not",
        ),
        (["--data.evaluation.crop_ratio", "1e-9"], r"image_size / crop_ratio must be at most \d+ pixels"),
        (["--data.train.randaugment_layers", "999999"], r"randaugment_layers must be .*from 1 to 100, not 999999"),
        (["--data.mixing.mixup_alpha", "1e30"], r"data.mixing.mixup_alpha must be from 0 to 1000, not 1e\+30"),
        # Python 3.13 recurses deeply enough to see that it is no dict.
        (
            ["--model.options", "[" * 3000 + "]" * 3000],
            r"^(a value is nested too deeply|.{,700}Expected a dict.{,700})$",
        ),
        (["--optimizer.learning_rate", "1" + "0" * 400], r"a number is too large: int too large to convert to float"),
        (["--config", "vt_resnet81"], r"no file and no recipe 'vt_resnet81'; did you mean .*vt_resnet18"),
        (["--config=zzz"], r"no recipe 'zzz'; `tfvt recipes` lists"),
        (["--distribution.devices", "[CPU:0]"], r"distribution.devices.*strategy default takes 0"),
    ],
)
def test_a_bad_key_or_value_is_an_error_that_names_the_key(flags, message):
    with pytest.raises(UsageError, match=message):
        parse_recipe([*NEEDED, *flags])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {name: vt_resnet18, options: {tokenz: 8}}", r"no key model.options.tokenz; did you mean model.opt"),
        ("optimizer: {learnin_rate: 0.1}", r"no key optimizer.learnin_rate; did you mean optimizer.learning_rate"),
        ("optimizer:", "optimizer takes keys such as optimizer.beta_1"),
        ("- epochs: 3", "holds no keys"),
        ("epochs: [", "is not YAML"),
        ("epochs: 3\nseed: 1\nepochs: 4", r"bad.yaml: the key epochs is given twice, again in line 3"),
        ("model: &m\n  name: resnet18\n  options: *m", r"bad.yaml: line 3 has the alias \*m: write its value there"),
        ("a: " + "[" * 3000 + "]" * 3000, r"bad.yaml is nested too deeply"),
        ("a: 2026-99-99", r"bad.yaml is not YAML: month must be in 1..12"),
        ("optimizer: {learning_rate: 1, learning_rate: 2}", r"the key learning_rate is given twice, again in line 1"),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_key(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse_recipe([*NEEDED, "--config", str(path)])


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_no_number_of_a_recipe_is_infinite_or_nan(value):
    """By every flag that takes a number, or a pair of them."""
    plain = flatten(as_plain(parse_recipe(["--model.name", "resnet18", "--data.records", ""])))
    pairs = {key: f"[{value}, {value}]" for key, old in plain.items() if isinstance(old, list) and len(old) == 2}
    single = {key: value for key, old in plain.items() if isinstance(old, int | float) and not isinstance(old, bool)}
    flags = pairs | single | {"optimizer.clip_global_norm": value, "ema_decay": value}
    assert {"data.train.area_range", "data.evaluation.crop_ratio", "optimizer.momentum", "epochs"} <= flags.keys()
    for key, text in flags.items():
        with pytest.raises(UsageError, match=key.rpartition(".")[2]):
            parse_recipe([*NEEDED, f"--{key}={text}"])


def test_a_packaged_recipe_is_found_by_name_and_a_file_as_given_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = parse_recipe(["--config", str(_config("vt_resnet18")), "--data.records", "somewhere"])
    for name in ("vt_resnet18", "vt_resnet18.yaml"):
        assert parse_recipe(["--config", name, "--data.records", "somewhere"]) == packaged
        assert parse_recipe([f"--config={name}", "--data.records=somewhere"]) == packaged
    (tmp_path / "vt_resnet18").write_text("model: {name: resnet18}\ndata: {records: here}\nepochs: 7\n")
    assert parse_recipe(["--config", "vt_resnet18"]).epochs == 7
    assert parse_recipe(["--config", "vt_resnet18.yaml", "--data.records", "somewhere"]) == packaged


def test_a_model_of_another_task_is_refused(monkeypatch):
    variant = registry.get_variant("resnet18")
    monkeypatch.setitem(registry._VARIANTS, "depth_net", registry.Variant(variant.builder, variant.row, "depth"))
    with pytest.raises(UsageError, match=r"model\.name: depth_net is for depth, and tfvt trains classification"):
        parse_recipe(["--model.name", "depth_net"])
    with pytest.raises(UsageError, match="teacher: fpn_resnet50 is for segmentation, and a teacher teaches classes"):
        DistillationRecipe(teacher="fpn_resnet50")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"required: data.records"):
        parse_recipe(["--model.name", "resnet18"])
    with pytest.raises(UsageError, match=r"cannot read .*nowhere.yaml.*No such file"):
        parse_recipe(["--config", str(tmp_path / "nowhere.yaml")])


def test_every_option_of_the_tables_is_a_key_and_in_the_help():
    text = recipe_parser(ClassificationRecipe).format_help()
    for group, table in (("optimizer", OPTIMIZER_OPTIONS), ("schedule", SCHEDULE_OPTIONS)):
        for option in {option for options in table.values() for option in options}:
            assert f"--{group}.{option} " in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_in_configs_parses_and_its_head_says_where_it_is_from(path):
    recipe = parse_recipe(["--config", str(path), "--data.records", "somewhere"])
    steps = recipe.duration(100).steps
    rates = np.asarray(Schedule(recipe, 100)(np.arange(steps)))
    assert rates.shape == (steps,)
    assert np.isfinite(rates).all()
    warmed_up = 0.01 if recipe.schedule.name == "poly" else 1e-6  # poly falls from the first step on
    np.testing.assert_allclose(rates.max(), recipe.optimizer.learning_rate, rtol=warmed_up)
    head = path.read_text(encoding="utf-8").partition("\nmodel:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for word in ("Paper:", "Command:", "Hardware:", "Expected:"):
        assert word in head


def test_the_papers_recipes_have_the_papers_rates():
    default = parse_recipe(["--config", str(_config("vt_resnet18")), "--data.records", "somewhere"])
    schedule = Schedule(default, 5004)
    at_epochs = [float(schedule(epoch * 5004)) for epoch in (0, 29, 30, 59, 60, 89)]
    np.testing.assert_allclose(at_epochs, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    assert (default.optimizer.momentum, default.optimizer.weight_decay) == (0.9, 4e-5)
    advanced = parse_recipe(["--config", str(_config("vt_resnet50_advanced")), "--data.records", "somewhere"])
    schedule = Schedule(advanced, 625)
    at_epochs = [float(schedule(epoch * 625)) for epoch in (0, 1, 5, 6, 399)]
    np.testing.assert_allclose(at_epochs, [0.01, 0.04, 0.16, 0.158, 0.16 * 0.9875**394], rtol=1e-5)
    assert (advanced.epochs, advanced.data.batch_size, advanced.ema_decay) == (400, 2048, 0.99985)


VIT_SETTINGS = {"gelu": "tanh", "dropout_rate": 0.1, "attention_dropout_rate": 0.0, "zero_init_head": True}


@pytest.mark.parametrize("name", ["vit_base16", "funnel_vit_base16_6_6"])
def test_the_recipes_of_vit_have_the_settings_of_official_models(name):
    """`vit_imagenet_pretrain` and `vit_imagenet_finetune`, whose dropout was 0.1 when the paper was written."""
    pretrain, finetune = (
        parse_recipe(["--config", str(_config(config)), "--data.records", "somewhere"])
        for config in (name, f"{name}_finetune")
    )
    assert pretrain.model.options == VIT_SETTINGS | {"representation_dim": 768}
    assert finetune.model.options == VIT_SETTINGS
    settings = {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.3, "decay_norms_and_biases": False}
    settings |= {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "clip_global_norm": None}
    assert {key: getattr(pretrain.optimizer, key) for key in settings} == settings
    settings = {"name": "sgd", "learning_rate": 0.003, "weight_decay": 0.0, "momentum": 0.9, "nesterov": False}
    settings |= {"clip_global_norm": 1.0}
    assert {key: getattr(finetune.optimizer, key) for key in settings} == settings
    for recipe, batch_size, epochs in ((pretrain, 4096, 300), (finetune, 512, 8)):
        assert (recipe.data.batch_size, recipe.epochs, recipe.label_smoothing) == (batch_size, epochs, 0)


def test_the_recipe_of_deit_has_the_settings_of_its_authors():
    recipe = parse_recipe(["--config", str(_config("deit_small")), "--data.records", "somewhere"])
    assert recipe.model.options["initialization"] == "deit"
    assert recipe.model.options["pixel_mean"] == (123.675, 116.28, 103.53)
    schedule = Schedule(recipe, 1251)
    rates = [float(schedule(step)) for step in (0, 5 * 1251, 300 * 1251)]
    np.testing.assert_allclose(rates, [1e-6, 1e-3, 1e-5], rtol=1e-4)


OF_CONVOLUTIONS = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
OF_TRANSFORMERS = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "decay_norms_and_biases": False}
BATCHES = {100: 256, 300: 1024}  # by epochs


@pytest.mark.parametrize(
    ("names", "optimizer", "epochs", "warm_up", "options"),
    [
        (("resnet50", "san10", "acmix_san10"), OF_CONVOLUTIONS, 100, 0, {}),
        (("acmix_resnet50",), OF_CONVOLUTIONS, 100, 5, {}),
        (("pvt_tiny", "acmix_pvt_tiny"), OF_TRANSFORMERS, 300, 5, {"drop_path_rate": 0.1}),
        (
            ("swin_tiny", "acmix_swin_tiny"),
            OF_TRANSFORMERS | {"clip_global_norm": 5.0},
            300,
            20,
            {"drop_path_rate": 0.2},
        ),
        (("deit_tiny", "deit_small", "deit_base"), OF_TRANSFORMERS, 300, 5, {"drop_path_rate": 0.1}),
    ],
)
def test_the_recipes_of_acmix_and_deit_have_the_settings_of_their_authors(names, optimizer, epochs, warm_up, options):
    """Of SAN, PVT, Swin and DeiT; ACmix's own are those of the nets that it changes, and a warm-up on ResNet."""
    for name in names:
        recipe = parse_recipe(["--config", str(_config(name)), "--data.records", "somewhere"])
        assert {key: getattr(recipe.optimizer, key) for key in optimizer} == optimizer
        assert (recipe.epochs, recipe.data.batch_size, recipe.label_smoothing) == (epochs, BATCHES[epochs], 0.1)
        assert (recipe.schedule.name, recipe.schedule.warmup_epochs) == ("cosine", warm_up)
        assert options.items() <= recipe.model.options.items()
        mixed = (
            {"mixup_alpha": 0.8, "cutmix_alpha": 1.0} if epochs == 300 else {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
        )
        assert {key: getattr(recipe.data.mixing, key) for key in mixed} == mixed
        assert recipe.data.train.random_erasing == (0.25 if epochs == 300 else 0)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.endswith("_advanced")], ids=lambda p: p.stem)
def test_the_advanced_recipes_have_the_papers_shares_and_wait_for_a_teacher(path):
    flags = ["--config", str(path), "--data.records", "somewhere"]
    expected = {"kind": "soft", "temperature": 1.0, "teacher_share": 0.8}
    for teacher in (None, "resnet101"):
        recipe = parse_recipe([*flags, *([] if teacher is None else ["--distillation.teacher", teacher])])
        assert {key: getattr(recipe.distillation, key) for key in expected} == expected
        assert recipe.distillation.teacher == teacher
        recipe.distillation.check_teacher()


def test_the_advanced_recipe_of_vt_resnet34_is_the_network_of_table_8():
    recipe = parse_recipe(["--config", str(_config("vt_resnet34_advanced")), "--data.records", "somewhere"])
    assert {key: recipe.model.options[key] for key in ("renewed_tokens", "num_relations")} == {
        "renewed_tokens": 8,
        "num_relations": 2,
    }


def _config(name):
    return Path(configs.__file__).parent / f"{name}.yaml"


@pytest.mark.parametrize(
    ("model", "part", "key", "value", "says"),
    [
        ("retinanet_resnet50", "data.train", "max_long_side", "0", "max_long_side must be"),
        ("retinanet_resnet50", "data.evaluation", "max_long_side", "0", "max_long_side must be"),
        ("fpn_resnet50", "data.evaluation", "stride", "[900,900]", "stride must be"),
        ("resnet18", "data.train", "image_size", "[0,0]", "image_size must be"),
        ("resnet18", "data", "servers", "[here]", "servers"),
    ],
)
def test_a_number_that_is_refused_is_named_with_its_part(model, part, key, value, says):
    """Training and evaluation have keys of one name."""
    with pytest.raises(UsageError, match=rf"^{part}: {says}" if part != "data" else "^data: no server|^data: "):
        parse_recipe([f"--model.name={model}", "--data.records=x", f"--{part}.{key}={value}"])
