"""What is drawn: which operations, how often, with which signs, levels and boxes; and that only what is drawn runs."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfvt.data import augment
from tfvt.data.augment import AUTOAUGMENT_OPERATIONS, IMAGENET_POLICY, RANDAUGMENT_OPERATIONS, Operation

COUNT = 6000


def draw_many(draw, *outputs, count=COUNT):
    """`draw(seed)` under `count` seeds, as NumPy arrays with a leading axis."""
    function = tf.function(lambda seeds: tf.map_fn(draw, seeds, fn_output_signature=outputs))
    return [tensor.numpy() for tensor in function(tf.stack([tf.range(count), 5 * tf.range(count)], 1))]


def drawn_operations(draw):
    return draw_many(draw, tf.int32, tf.float32, tf.float32)


def margin(share, count=COUNT):
    """Four standard errors of a share."""
    return 4 * np.sqrt(share * (1 - share) / count)


@pytest.fixture(scope="module")
def policies():
    return drawn_operations(augment.draw_auto_augment)


@pytest.fixture(scope="module")
def layers():
    return drawn_operations(lambda seed: augment.draw_rand_augment(seed, 3, 9.0, 0.0, 0.9))


def test_autoaugment_draws_each_sub_policy_alike_and_its_operations_with_their_probabilities(policies):
    index, _, _ = policies
    names = [*AUTOAUGMENT_OPERATIONS, None]
    seen = Counter((names[first], names[second]) for first, second in index)
    expected = Counter()
    for (first, first_chance, _), (second, second_chance, _) in IMAGENET_POLICY:
        for one, one_share in ((first, first_chance), (None, 1 - first_chance)):
            for two, two_share in ((second, second_chance), (None, 1 - second_chance)):
                expected[one, two] += one_share * two_share / len(IMAGENET_POLICY)
    assert set(seen) <= {pair for pair, share in expected.items() if share > 0}
    for pair, share in expected.items():
        assert abs(seen[pair] / COUNT - share) <= margin(share), pair


def test_autoaugment_turns_shears_and_moves_both_ways_by_the_levels_of_the_policy(policies):
    index, argument, _ = policies
    for name, unit in {"Rotate": 3.0, "ShearX": 0.03, "ShearY": 0.03, "TranslateY": 25.0}.items():
        chosen = argument[index == list(AUTOAUGMENT_OPERATIONS).index(name)]
        levels = {level for policy in IMAGENET_POLICY for other, chance, level in policy if other == name and chance}
        np.testing.assert_allclose(np.unique(np.abs(chosen)), sorted(unit * level for level in levels), rtol=1e-6)
        moved = chosen[chosen != 0]
        assert abs((moved < 0).mean() - 0.5) < margin(0.5, len(moved))


def test_randaugment_draws_all_operations_and_identity_alike(layers):
    index, _, _ = layers
    number = len(RANDAUGMENT_OPERATIONS)
    shares = np.bincount(index.ravel(), minlength=number + 1) / index.size
    assert len(shares) == number + 1
    assert (np.abs(shares[:-1] - 0.9 / (number + 1)) < margin(0.9 / (number + 1), index.size)).all()
    identity = 0.1 + 0.9 / (number + 1)
    assert abs(shares[-1] - identity) < margin(identity, index.size)


def test_layers_are_drawn_independently(layers):
    index, _, center = layers
    for first, second in ((0, 1), (1, 2), (0, 2)):
        same = (index[:, first] == index[:, second]).mean()
        number = len(RANDAUGMENT_OPERATIONS)
        expected = number * (0.9 / (number + 1)) ** 2 + (0.1 + 0.9 / (number + 1)) ** 2
        assert abs(same - expected) < margin(expected)
        assert abs(np.corrcoef(center[:, first, 0], center[:, second, 0])[0, 1]) < 0.06


def test_magnitude_has_its_standard_deviation_and_stays_in_range():
    names = list(RANDAUGMENT_OPERATIONS)
    index, argument, _ = drawn_operations(lambda seed: augment.draw_rand_augment(seed, 2, 6.0, 1.5, 1.0))
    level = np.abs(argument[index == names.index("Rotate")]) / 3.0
    assert abs(level.mean() - 6.0) < 4 * 1.5 / np.sqrt(level.size)
    assert abs(level.std() - 1.5) < 0.2
    index, argument, _ = drawn_operations(lambda seed: augment.draw_rand_augment(seed, 2, 9.0, 3.0, 1.0))
    level = np.abs(argument[index == names.index("Rotate")]) / 3.0
    assert level.max() == 10.0
    assert level.min() >= 0.0


def test_only_the_drawn_operation_runs():
    runs = []

    def counted(number):
        def apply(image, _, __):
            return tf.numpy_function(lambda pixels: (runs.append(number), pixels)[1], [image], tf.uint8)

        return Operation(apply)

    known = [counted(number) for number in range(5)]
    image = tf.zeros((4, 4, 3), tf.uint8)

    def run(index):
        return augment.apply_drawn(image, known, (index, tf.zeros(2), tf.zeros((2, 2))), 2)

    plans = [(0, 3), (4, 5), (2, 2), (5, 5)]  # 5: none
    for result in tf.data.Dataset.from_tensor_slices(plans).map(run):
        assert result.shape == image.shape
    assert runs == [0, 3, 4, 2, 2]


@pytest.mark.parametrize("function", [augment.auto_augment, augment.rand_augment])
def test_results_are_a_function_of_the_seed(function):
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    first, again = (draw_many(lambda seed: (function(image, seed),), tf.uint8, count=60)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert len({result.tobytes() for result in first}) > 20  # some operations have no argument, some draws none


@settings(max_examples=10, deadline=None)
@given(size=st.tuples(*[st.integers(3, 40)] * 2), seed=st.integers(0, 2**31 - 1))
def test_any_size_from_three_pixels_on(size, seed):
    image = tf.constant(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))
    for function in (augment.auto_augment, augment.rand_augment):
        result = AUGMENT_ANY_SIZE[function](image, tf.constant([seed, 1]))
        assert (result.shape, result.dtype) == (image.shape, tf.uint8)


AUGMENT_ANY_SIZE = {
    function: tf.function(
        function, input_signature=(tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32))
    )
    for function in (augment.auto_augment, augment.rand_augment)
}


def test_color_jitter_keeps_within_its_strength():
    grey = tf.fill((4, 4, 3), tf.constant(100, tf.uint8))  # contrast and saturation change nothing
    results = draw_many(lambda seed: (augment.color_jitter(grey, seed, 0.4),), tf.uint8, count=500)[0]
    values = results[:, 0, 0, 0]
    assert 59 <= values.min() < 65
    assert 135 < values.max() <= 140
    strong = draw_many(lambda seed: (augment.color_jitter(grey, seed, 3.0),), tf.uint8, count=50)[0]
    assert strong.max() == 255, "factors reach beyond 2, and never below 0"


def boxes(shape, area_range=(0.02, 1 / 3), aspect_range=(0.3, 1 / 0.3), count=2000):
    draw = lambda seed: tf.stack(augment.erased_box(tf.constant(shape), seed, area_range, aspect_range))  # noqa: E731
    return draw_many(lambda seed: (draw(seed),), tf.int32, count=count)[0].T


def test_erased_boxes_keep_to_area_and_aspect_and_use_their_range():
    height, width = 100, 140
    top, left, h, w = boxes((height, width, 3))
    areas, aspects = h * w / (height * width), h / w
    rounding = 0.5 / h + 0.5 / w  # of both sides
    assert (areas > 0.02 * (1 - rounding)).all()
    assert (areas < (1 + rounding) / 3).all()
    assert (aspects > 0.3 * (1 - rounding)).all()
    assert (aspects < (1 + rounding) / 0.3).all()
    assert areas.min() < 0.03
    assert areas.max() > 0.31
    assert aspects.min() < 0.35
    assert aspects.max() > 2.8
    assert abs(np.log(aspects).mean()) < 0.1
    assert top.min() == left.min() == 0
    assert (top + h).max() == height
    assert (left + w).max() == width
    small = (h < 30) & (w < 30)
    assert abs((top / (height - h))[small].mean() - 0.5) < 0.05


def test_a_box_that_never_fits_erases_nothing():
    assert (boxes((10, 200, 3), area_range=(0.9, 0.9), aspect_range=(1.0, 1.0), count=20) == 0).all()


def test_erasing_puts_noise_into_one_box_of_some_images():
    image = tf.fill((60, 80, 3), 55.0)
    results = draw_many(lambda seed: (augment.random_erasing(image, seed, probability=0.3),), tf.float32, count=1000)[0]
    changed = (results != 55.0).any(-1)
    assert abs(changed.any((1, 2)).mean() - 0.3) < margin(0.3, 1000)
    rows, columns = changed.any(2), changed.any(1)
    np.testing.assert_array_equal(changed, rows[:, :, None] & columns[:, None, :])
    noise = results[changed]
    np.testing.assert_allclose(noise.mean(0), augment.IMAGENET_MEAN, atol=1)
    np.testing.assert_allclose(noise.std(0), augment.IMAGENET_STD, rtol=0.02)
