"""MixUp and CutMix: whose pixels, whose labels, how much of each; and how often."""

import numpy as np
import pytest
import tensorflow as tf
from host_rows import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tfvt.data import mixing
from tfvt.data.mixing import Mixing, mix_batch, soft_targets
from tfvt.data.order import HostShare
from tfvt.errors import UsageError

BATCH, HEIGHT, WIDTH, CLASSES = 8, 20, 30, 8
LABELS = tf.range(BATCH)


def constant_images():
    """Image i is i everywhere, and sample i's label is i: a mixed pixel tells the share."""
    return tf.cast(tf.reshape(LABELS, (-1, 1, 1, 1)), tf.float32) * tf.ones((1, HEIGHT, WIDTH, 3))


def mixed(recipe, count, images=None):
    """(count, B, ...) images and targets under many seeds."""
    images = constant_images() if images is None else images

    @tf.function
    def draw(seeds):
        return tf.map_fn(
            lambda seed: mix_batch(images, LABELS, CLASSES, seed, recipe), seeds, fn_output_signature=(tf.float32,) * 2
        )

    seeds = tf.stack([tf.range(count), 3 * tf.range(count)], 1)
    return [tensor.numpy() for tensor in draw(seeds)]


def shares_of(targets):
    """How much of itself each sample keeps, (..., B)."""
    return np.diagonal(targets, axis1=-2, axis2=-1)


@pytest.mark.parametrize("recipe", [Mixing(0.8), Mixing(0.0, 1.0), Mixing(0.8, 1.0)])
def test_targets_are_the_shares_of_the_pixels(recipe):
    images, targets = mixed(recipe, 40)
    share = shares_of(targets)
    numbers = np.arange(BATCH)
    # The mean of a mixed image is share * i + (1 - share) * (B - 1 - i), for CutMix by area.
    expected = share * numbers + (1 - share) * numbers[::-1]
    np.testing.assert_allclose(images.mean(axis=(2, 3, 4)), expected, atol=1e-4)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(share + targets[:, numbers, numbers[::-1]], 1, atol=1e-6)


def test_mixup_blends_whole_images_with_a_share_for_each():
    images, targets = mixed(Mixing(mixup_alpha=0.8), 20)
    assert (images == images[:, :, :1, :1]).all()
    assert len(np.unique(shares_of(targets))) > 100


def test_cutmix_pastes_one_box():
    images, targets = mixed(Mixing(cutmix_alpha=1.0), 40)
    partner = np.arange(BATCH)[::-1, None, None]
    foreign = images[..., 0] == partner
    own = images[..., 0] == partner[::-1]
    assert (foreign ^ own).all(), "every pixel is of one of the two"
    rows, columns = foreign.any(-1), foreign.any(-2)
    np.testing.assert_array_equal(foreign, rows[..., None] & columns[..., None, :], "a box")
    for span in (rows, columns):
        assert (np.abs(np.diff(np.pad(span.astype(int), [(0, 0)] * 2 + [(1, 1)]))).sum(-1) <= 2).all(), "in one piece"
    np.testing.assert_allclose(shares_of(targets), own.mean((-2, -1)), atol=1e-6)
    assert rows[..., 0].any()
    assert rows[..., -1].any()
    assert columns[..., 0].any()
    assert columns[..., -1].any()


@settings(max_examples=50, deadline=None)
@given(
    share=st.floats(0, 1, width=32),
    center=st.tuples(*[st.floats(0, 1, width=32, exclude_max=True)] * 2),
    size=st.tuples(*[st.integers(1, 50)] * 2),
)
def test_boxes_lie_in_the_image_around_their_centre(share, center, size):
    shape = tf.constant((1, *size, 3))
    box = mixing.cutmix_boxes(tf.constant([share]), tf.constant(center)[:, None], shape).numpy()[:, 0]
    for axis in range(2):
        length, middle = size[axis], int(np.float32(center[axis]) * np.float32(size[axis]))
        half = int(np.sqrt(np.float32(1) - np.float32(share)) * np.float32(length)) // 2
        assert (box[axis], box[2 + axis]) == (max(middle - half, 0), min(middle + half, length))


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.8, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha):
    drawn = mixing.beta(alpha, (4000,), (1, 2)).numpy()
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert drawn.tobytes() == mixing.beta(alpha, (4000,), (1, 2)).numpy().tobytes()
    # Where a share rounds to 0 or 1, the distribution steps: compare inside.
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs((drawn < quantile).mean() - stats.beta.cdf(quantile, alpha, alpha)) < 0.03  # 3.8 standard errors


def test_probability_and_switch_are_shares_of_the_batches():
    count = 400
    images, targets = mixed(Mixing(0.8, 1.0, probability=0.7, switch_probability=0.25), count)
    untouched = (images == constant_images().numpy()).all((1, 2, 3, 4))
    blended = (images == images[:, :, :1, :1]).all((1, 2, 3, 4)) & ~untouched
    np.testing.assert_array_equal(targets[untouched], np.broadcast_to(np.eye(BATCH), (untouched.sum(), BATCH, BATCH)))
    assert abs(untouched.mean() - 0.3) < 0.08  # 3.5 standard errors
    assert abs(blended[~untouched].mean() - 0.75) < 0.09


def test_a_batch_is_a_function_of_the_seed():
    (first, _), (again, _) = mixed(Mixing(0.8, 1.0), 10), mixed(Mixing(0.8, 1.0), 10)
    assert first.tobytes() == again.tobytes()
    assert len({image.tobytes() for image in first}) == 10


@pytest.mark.parametrize("recipe", [Mixing(), Mixing(0.8, 1.0, probability=0.0)])
def test_nothing_to_mix_leaves_images_and_one_hot_targets(recipe):
    assert not recipe.enabled
    images, targets = mix_batch(constant_images(), LABELS, 11, (0, 0), recipe)
    assert images.numpy().tobytes() == constant_images().numpy().tobytes()
    np.testing.assert_array_equal(targets, np.eye(BATCH, 11))
    assert targets.dtype == tf.float32


def test_shapes_stay_known_in_a_pipeline():
    dataset = tf.data.Dataset.from_tensors((constant_images(), LABELS))
    dataset = dataset.map(lambda images, labels: mix_batch(images, labels, 11, (1, 2), Mixing(0.8, 1.0)))
    images, targets = dataset.element_spec
    assert images.shape == (BATCH, HEIGHT, WIDTH, 3)
    assert targets.shape == (BATCH, 11)


def test_soft_targets_are_those_of_keras():
    import keras

    labels, logits = np.array([0, 2, 1]), np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    targets = soft_targets(labels, 5, 0.1)
    np.testing.assert_allclose(targets[0], [0.92, 0.02, 0.02, 0.02, 0.02], atol=1e-7)
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    plain = keras.losses.CategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(plain(targets, logits), smoothed(np.eye(5)[labels], logits), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Mixing(mixup_alpha=-0.1), "mixup_alpha must be 0"),
        (lambda: Mixing(cutmix_alpha=float("nan")), "cutmix_alpha must be 0"),
        (lambda: Mixing(probability=1.1), "probability must be from 0 to 1, not 1.1"),
        (lambda: Mixing(switch_probability=-1.0), "switch_probability"),
        (lambda: soft_targets([0], 3, 1.0), "smoothing must be at least 0 and below 1"),
    ],
)
def test_bad_settings_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()


@pytest.mark.parametrize("recipe", [Mixing(0.8), Mixing(0.0, 1.0), Mixing(0.8, 1.0)])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_mix_as_one_does(recipe, hosts):
    for seed in range(4):
        images, targets = mix_batch(constant_images(), LABELS, CLASSES, (seed, 5), recipe)
        for host in range(hosts):
            rows = rows_of(host, hosts, BATCH)
            own = tf.gather(constant_images(), rows), tf.gather(LABELS, rows)
            mixed_here, targets_here = mix_batch(*own, CLASSES, (seed, 5), recipe, HostShare(hosts, host))
            np.testing.assert_array_equal(mixed_here, tf.gather(images, rows))
            np.testing.assert_array_equal(targets_here, tf.gather(targets, rows))
    with pytest.raises(UsageError, match="mixing needs an even number of images on each host, not 1"):
        mix_batch(constant_images()[:1], LABELS[:1], CLASSES, (0, 5), recipe, HostShare(8, 1))
