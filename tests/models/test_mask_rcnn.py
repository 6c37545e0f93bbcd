"""Mask R-CNN: the contract, with and without the truth, its wiring, and what a cascade adds."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import tests.contracts as contracts
from tests.layers.box_sets import on_arrays
from tests.models.mask_rcnn_scenes import TINY, images, run, small, truth
from tfvt.layers.rois import RoIDetections
from tfvt.models.blocks import Rematerialized
from tfvt.models.detection import DetectionSettings, detector
from tfvt.models.detection_model import mask_rcnn_losses
from tfvt.models.mask_rcnn import TORCHVISION
from tfvt.registry import get_variant

SIZES = np.array([[64, 96], [50, 61]], "int32")
CASCADE = "cascade_mask_rcnn_swin_tiny"
not_on_jax = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX compiles each whole model and says here what other backends say"
)
NAMES = ["mask_rcnn_swin_tiny", pytest.param(CASCADE, marks=not_on_jax)]


def test_the_contract():
    contracts.check_model("mask_rcnn_swin_tiny", **TINY)


@pytest.mark.slow
def test_the_contract_of_a_cascade():
    contracts.check_model(CASCADE, **TINY)


@pytest.mark.slow
def test_mixed_precision():
    contracts.check_mixed_precision("mask_rcnn_swin_tiny", **TINY)


@pytest.mark.slow
def test_any_size():
    contracts.check_sizes("mask_rcnn_swin_tiny", [(65, 43)], **TINY)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns_from_the_losses(name):
    """Of the sum that `mask_rcnn_losses` describes, with draws from all levels."""
    model = small(name, sampled_anchors=1000)
    inputs = {"image": images(), "size": None, **truth()}
    parts = mask_rcnn_losses(model.output)
    total = sum(ops.sum(sums) / ops.maximum(ops.sum(counts), 1) for sums, counts in parts.values())
    trained = type(model)(model.input, {"loss": ops.reshape(total, (1,))})
    contracts.check_gradients(trained, {key: inputs[key] for key in trained.input})
    stages = ["_1", "_2", "_3"] if name == CASCADE else [""]
    assert set(parts) == {"rpn_class", "rpn_box"} | {f"{p}{s}" for p in ("class", "box", "mask") for s in stages}


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_what_made_the_proposals(name):
    """Of the last stage's losses: through the non-maximum suppression, RoIAlign and the boxes of the stage before."""
    model = small(name, sampled_anchors=1000)
    last = "_3" if name == CASCADE else ""
    parts = mask_rcnn_losses(model.output)
    total = sum(ops.sum(parts[f"{part}{last}"][0]) for part in ("class", "box", "mask"))
    trained = type(model)(model.input, {"loss": ops.reshape(total, (1,))})
    inputs = {"image": images(), "size": None, **truth()}
    found = contracts.gradients(trained, {key: inputs[key] for key in trained.input})
    reached = {path.partition("/")[0] for path, value in found.items() if value is not None and value.any()}
    own = tuple(f"{part}{last}" for part in ("decoder_box", "decoder_mask", "head_class", "head_box", "head_mask"))
    assert {layer for layer in reached if layer.startswith(own)} >= {f"head_class{last}", f"head_box{last}"}
    assert not {layer for layer in reached if layer.startswith(("decoder", "head")) and not layer.startswith(own)}
    assert any(layer.startswith("neck") for layer in reached)


def test_the_truth_gives_losses_and_its_lack_gives_boxes():
    model = small()
    alone = run(model, images())
    assert {key: value.shape[1:] for key, value in alone.items() if "loss" not in key and "count" not in key} == {
        "rpn_logits": (1536, 1), "rpn_deltas": (1536, 4), "anchors": (1536, 4),
        "proposals": (10, 4), "states": (10,), "class_logits": (10, 4), "box_deltas": (10, 3, 4),
        "boxes": (100, 4), "scores": (100,), "labels": (100,), "mask_logits": (100, 28, 28, 3),
    }  # fmt: skip
    assert (alone["labels"] >= 0).any()
    with_truth = run(model, {"image": images(), **truth()}, training=True)
    assert with_truth["proposals"].shape == (2, 12, 4)
    assert with_truth["mask_logits"].shape == (2, 3, 28, 28, 3)
    assert (with_truth["labels"] == -1).all()
    for part, (sums, counts) in mask_rcnn_losses(with_truth).items():
        assert (sums > 0).all(), part
        assert (counts > 0).all(), part
        assert not alone[f"{part}_loss"].any()
    same = run(model, {"image": images(), **truth()}, training=True)
    other = run(model, {"image": images(), **truth() | {"seed": truth()["seed"] + 1}}, training=True)
    np.testing.assert_array_equal(same["proposals"], with_truth["proposals"])
    assert (other["proposals"] != with_truth["proposals"]).any()


@not_on_jax
def test_an_image_without_boxes_has_finite_losses():
    given = truth() | {"labels": np.full((2, 3), -1, "int32")}
    found = run(small(), {"image": images(), **given}, training=True)
    losses = {part: (sums, counts) for part, (sums, counts) in mask_rcnn_losses(found).items()}
    assert all(np.isfinite(sums).all() for sums, _ in losses.values())
    np.testing.assert_array_equal(losses["box"][0], [0, 0])
    np.testing.assert_array_equal(losses["mask"][1], [0, 0])
    assert (losses["class"][1] > 0).all()


@not_on_jax
def test_an_image_learns_the_same_in_any_batch():
    model, given = small(), {"image": images(), **truth()}
    both, second = run(model, given), run(model, {key: value[1:] for key, value in given.items()})
    for key, value in second.items():
        np.testing.assert_allclose(value, both[key][1:], atol=1e-3, err_msg=key)


@not_on_jax
def test_blocks_that_are_computed_twice_give_the_same():
    model, given = small(), {"image": images(), **truth()}
    states = [ops.convert_to_numpy(variable) for variable in model.non_trainable_variables]
    expected = contracts.arrays(model(given, training=True))
    for variable, state in zip(model.non_trainable_variables, states, strict=True):
        variable.assign(state)
    rematerialized = Rematerialized(model, lambda function: function)
    assert len(rematerialized.parts) > 3
    for actual, value in zip(contracts.arrays(rematerialized(given)), expected, strict=True):
        np.testing.assert_array_equal(actual, value)


def test_a_part_of_the_truth_is_named():
    with pytest.raises(ValueError, match="boxes, labels, crowd, seed together: crowd, seed is missing"):
        small()({"image": images(), "boxes": truth()["boxes"], "labels": truth()["labels"]})


@not_on_jax
def test_a_copy_learns_the_same():
    """Of its configuration, as engines copy a model for averages of its weights."""
    model = small()
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    for inputs in (images(), {"image": images(), **truth()}):
        for expected, actual in zip(run(model, inputs).values(), run(copy, inputs).values(), strict=True):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_gives_what_the_model_gives(name, tmp_path):
    """Its boxes with its settings; of each the mask of its class; saved, the same."""
    model = small(name)
    # Heads far from their start, whose scores are all alike.
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.startswith(("head_class", "head_mask")):
            layer.set_weights([rng.normal(scale=0.3, size=w.shape) for w in layer.get_weights()])
    inputs = {"image": images(), "size": SIZES}
    expected = run(model, inputs)
    whole = detector(model)
    found = run(whole, inputs)
    for key in ("boxes", "scores", "labels"):
        np.testing.assert_allclose(found[key], expected[key], atol=1e-4)
    for image, limits in enumerate(SIZES):
        assert (found["boxes"][image] <= [*limits, *limits]).all()
    heads = [value for key, value in expected.items() if key.startswith("mask_logits")]
    for image, place in zip(*np.nonzero(found["labels"] >= 0), strict=True):
        label = found["labels"][image, place]
        masks = [1 / (1 + np.exp(-head[image, place, ..., label])) for head in heads]
        np.testing.assert_allclose(found["masks"][image, place], np.mean(masks, axis=0), atol=1e-4)
    assert (found["labels"] >= 0).sum() > 4
    assert not found["masks"][found["labels"] < 0].any()
    few = run(detector(model, DetectionSettings(max_detections=2, score_threshold=0.2)), inputs)
    np.testing.assert_allclose(few["scores"], np.where(found["scores"] > 0.2, found["scores"], 0)[:, :2], atol=1e-4)
    whole.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras", compile=False)
    for key, value in run(loaded, inputs).items():
        np.testing.assert_array_equal(value, found[key])


def in_each_stage(cascade, plain):
    """Give all stages of `cascade` the heads of `plain`, and the rest too."""
    for layer in cascade.layers:
        if layer.weights:
            name = re.sub(r"^((head|decoder)_[a-z]+)_[123]", r"\1", layer.name)
            layer.set_weights(plain.get_layer(name).get_weights())


@not_on_jax
@pytest.mark.parametrize("learns", [False, True])
def test_stages_with_one_head_are_mask_rcnns(learns):
    """The first is a whole Mask R-CNN's; each later one has its heads on the boxes of the one before."""
    same = {"box_head": "dense", "box_loss": "l1", "rpn_beta": 0.0, "stage_weights": (1.0, 0.5, 0.25)}
    cascade, plain = small(CASCADE, **same), small()
    in_each_stage(cascade, plain)
    inputs = {"image": images(), "size": SIZES} | (truth() if learns else {})
    found, expected = run(cascade, inputs), run(plain, inputs)
    for key in ("rpn_logits", "rpn_class_loss", "rpn_box_loss"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-4)
    for key in ("proposals", "states", "class_logits", "box_deltas", "class_loss", "box_loss", "mask_loss"):
        np.testing.assert_allclose(found[f"{key}_1"], expected[key], rtol=1e-4, atol=1e-4)
    maps = type(plain)(plain.input, dict(zip("abcd", plain.maps, strict=True)))
    maps = list(run(maps, inputs["image"]).values())
    read = plain.output["proposals"]
    heads = keras.Model([*plain.maps, read], [plain.output["class_logits"], plain.output["box_deltas"]])
    for stage in (2, 3):
        logits, deltas = heads.predict_on_batch([*maps, found[f"proposals_{stage}"]])
        np.testing.assert_allclose(found[f"class_logits_{stage}"], logits, atol=1e-4)
        np.testing.assert_allclose(found[f"box_deltas_{stage}"], deltas, atol=1e-4)
        before, after = found[f"proposals_{stage - 1}"], found[f"proposals_{stage}"]
        assert after.shape == before.shape
        assert (after != before).any()
    if not learns:
        logits = np.mean([found[f"class_logits_{stage}"] for stage in (1, 2, 3)], axis=0)
        last = RoIDetections([std / 3 for std in (0.1, 0.1, 0.2, 0.2)])
        detected = on_arrays(last)(SIZES, found["proposals_3"], found["states_3"], logits, found["box_deltas_3"])
        np.testing.assert_allclose(found["boxes"], detected["boxes"], atol=1e-3)
        np.testing.assert_array_equal(found["labels"], detected["labels"])


def test_each_stage_is_stricter():
    """A proposal is positive from 0.5, 0.6 and 0.7 on, and the losses count 1, 0.5 and 0.25 times."""
    model = small(CASCADE)
    assert [model.get_layer(f"samples_{stage}").overlap for stage in (1, 2, 3)] == [0.5, 0.6, 0.7]
    layers = [model.get_layer(f"box_losses_{stage}") for stage in (1, 2, 3)]
    assert [(layer.box, layer.class_weight, layer.box_weight) for layer in layers] == [
        ("giou", 1.0, 10.0), ("giou", 0.5, 5.0), ("giou", 0.25, 2.5),
    ]  # fmt: skip
    for stage, layer in enumerate(layers, start=1):
        np.testing.assert_allclose(layer.std, np.array([0.1, 0.1, 0.2, 0.2]) / stage)
    assert [model.get_layer(f"mask_losses_{stage}").weight for stage in (1, 2, 3)] == [1.0, 0.5, 0.25]
    assert model.get_layer("rpn_losses").beta == 1 / 9
    assert get_variant(CASCADE).row["training_proposals"] == 2000


@not_on_jax
def test_torchvisions_values():
    """The background comes first and has a box and a mask too."""
    options = TORCHVISION | {"backbone": "resnet18", "backbone_options": TINY["backbone_options"]}
    found = run(small(**TINY | options), {"image": images(), **truth()}, training=True)
    assert found["class_logits"].shape[2] == found["box_deltas"].shape[2] == found["mask_logits"].shape[4] == 4
    assert all(np.isfinite(sums).all() for sums, _ in mask_rcnn_losses(found).values())


@pytest.mark.parametrize(("options", "message"), [
    ({"stage_weights": (1.0, 1.0)}, r"stage_weights=\(1.0, 1.0\): expected one for each of stage_overlaps=\(0.5,\)"),
    ({"stage_overlaps": (1.5,)}, "stage_overlaps=.*every value to be a number of at least 0 and at most 1"),
    ({"stage_overlaps": (), "stage_weights": ()}, r"stage_overlaps=\(\): expected at least one stage"),
    ({"samples": 0}, "samples=0: expected an integer of at least 1"),
    ({"sampled_proposals": 3}, "sampled_proposals=3: expected an integer of at least 4"),
    ({"box_head": "wide"}, "box_head='wide': expected one of 'dense', 'convolution'"),
    ({"proposals": 0}, "proposals=0: expected an integer of at least 1"),
    ({"features": ("P6",)}, "features='P6': expected one of 'P2', 'P3', 'P4', 'P5'"),
])  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_what_a_model_returns():
    body, neck = small(include_top=False), small(features=("P3",))
    for layer in neck.layers:
        layer.set_weights(body.get_layer(layer.name).get_weights())
    maps = body.predict_on_batch(images())
    assert {level: x.shape for level, x in maps.items()} == {
        f"P{n}": (2, 64 // 2**n, 96 // 2**n, 8) for n in (2, 3, 4, 5)
    }
    np.testing.assert_array_equal(neck.predict_on_batch(images())["P3"], maps["P3"])
