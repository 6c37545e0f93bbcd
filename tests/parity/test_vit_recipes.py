"""The recipes of ViT beside the experiments of TensorFlow official models that they follow."""

from pathlib import Path

import pytest

from tfvt import configs
from tfvt.trainers.recipes.parsing import parse_recipe

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore"),  # of what official models import
]


@pytest.mark.parametrize(
    ("name", "experiment"),
    [("vit_base16", "vit_imagenet_pretrain"), ("vit_base16_finetune", "vit_imagenet_finetune")],
)
def test_settings(name, experiment):
    """All but the dropout rate, which was 0.1 when the paper was written, and 0 in the releases of today."""
    from official.core import exp_factory
    from official.vision.configs import image_classification

    assert image_classification.IMAGENET_TRAIN_EXAMPLES == 1_281_167
    theirs = exp_factory.get_exp_config(experiment)
    path = Path(configs.__file__).parent / f"{name}.yaml"
    ours = parse_recipe(["--config", str(path), "--data.records", "somewhere"])
    model, data, trainer = theirs.task.model, theirs.task.train_data, theirs.trainer
    backbone, optimizer = model.backbone.vit, trainer.optimizer_config
    steps_per_epoch = 1_281_167 // data.global_batch_size

    assert ours.model.options.get("representation_dim", 0) == backbone.representation_size
    assert ours.model.options["attention_dropout_rate"] == backbone.transformer.attention_dropout_rate == 0
    assert ours.model.options.get("drop_path_rate", 0) == backbone.init_stochastic_depth_rate
    assert model.kernel_initializer == ("zeros" if "pretrain" in experiment else "random_uniform")
    assert ours.data.batch_size == data.global_batch_size
    assert list(ours.data.train.image_size) == model.input_size[:2]
    assert ours.data.train.area_range == tuple(data.crop_area_range)
    assert ours.epochs == pytest.approx(trainer.train_steps / steps_per_epoch, rel=0.001)
    assert ours.optimizer.name == optimizer.optimizer.type
    assert ours.schedule.name == optimizer.learning_rate.type == "cosine"
    assert ours.optimizer.learning_rate == optimizer.learning_rate.cosine.initial_learning_rate
    if "pretrain" in experiment:
        adamw = optimizer.optimizer.adamw
        assert ours.optimizer.weight_decay == adamw.weight_decay_rate
        assert adamw.include_in_weight_decay == r".*(kernel|weight):0$"
        assert not ours.optimizer.decay_norms_and_biases
        assert (ours.optimizer.beta_1, ours.optimizer.beta_2) == (adamw.beta_1, adamw.beta_2)
        assert ours.optimizer.epsilon == adamw.epsilon
        warmup = optimizer.warmup.linear.warmup_steps / steps_per_epoch
        assert ours.schedule.warmup_epochs == pytest.approx(warmup, rel=0.002)
    else:
        sgd = optimizer.optimizer.sgd
        assert (ours.optimizer.momentum, ours.optimizer.clip_global_norm) == (sgd.momentum, sgd.global_clipnorm)
