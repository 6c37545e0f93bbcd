"""Photometric distortion: what is drawn, and each step against Matplotlib's HSV."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

from tfvt.data.photometric import Distortion, distort, draw, photometric_distortion

COUNT = 4000
NEUTRAL = {"brightness": 0.0, "contrast_before": 1.0, "saturation": 1.0, "hue": 0.0, "contrast_after": 1.0}


def reference(image, drawn):
    """The steps of mmsegmentation, in double precision and without cutting off fractions."""
    image = np.clip(image.astype(float) + drawn["brightness"], 0, 255)
    image = np.clip(image * drawn["contrast_before"], 0, 255)
    hsv = rgb_to_hsv(image / 255)
    hsv[..., 1] = np.clip(hsv[..., 1] * drawn["saturation"], 0, 1)
    hsv[..., 0] = (hsv[..., 0] + drawn["hue"]) % 1
    return np.clip(255 * hsv_to_rgb(hsv) * drawn["contrast_after"], 0, 255)


@settings(max_examples=25, deadline=None)
@given(
    drawn=st.fixed_dictionaries(
        {
            "brightness": st.floats(-32, 32, width=32),
            "contrast_before": st.floats(0.5, 1.5, width=32),
            "saturation": st.floats(0.5, 1.5, width=32),
            "hue": st.floats(-0.0999755859375, 0.0999755859375, width=32),
            "contrast_after": st.floats(0.5, 1.5, width=32),
        }
    ),
    only=st.sampled_from([*NEUTRAL, None]),
    seed=st.integers(0, 2**31 - 1),
)
def test_steps_are_those_of_hsv(drawn, only, seed):
    """All steps together, and each alone; colours of all kinds, grey, black and white."""
    if only:
        drawn = NEUTRAL | {only: drawn[only]}
    image = np.random.default_rng(seed).integers(0, 256, (7, 9, 3)).astype(np.float32)
    image[0, :5] = [[0] * 3, [255] * 3, [127] * 3, [255, 0, 0], [0, 0, 255]]
    found = distort(tf.constant(image), Distortion(**{name: tf.constant(value) for name, value in drawn.items()}))
    np.testing.assert_allclose(found, reference(image, drawn), atol=0.02)


@pytest.fixture(scope="module")
def drawn():
    seeds = tf.stack([tf.range(COUNT), 3 * tf.range(COUNT)], 1)
    function = tf.function(lambda: tf.map_fn(draw, seeds, fn_output_signature=Distortion(*[tf.float32] * 5)))
    return {name: value.numpy() for name, value in function()._asdict().items()}


def test_each_step_happens_in_half_of_the_samples_independently(drawn):
    changed = {name: drawn[name] != neutral for name, neutral in NEUTRAL.items()}
    assert not (changed["contrast_before"] & changed["contrast_after"]).any()
    before = changed["contrast_before"].mean()
    assert abs(before - 0.25) < 4 * np.sqrt(0.25 * 0.75 / COUNT)
    changed["contrast"] = changed.pop("contrast_before") | changed.pop("contrast_after")
    for name, happens in changed.items():
        assert abs(happens.mean() - 0.5) < 2 / np.sqrt(COUNT), name
    assert np.abs(np.corrcoef(list(changed.values())) - np.eye(4)).max() < 4 / np.sqrt(COUNT)


def test_values_are_uniform_in_their_ranges(drawn):
    for name, (low, high) in {
        "brightness": (-32, 32), "contrast_before": (0.5, 1.5), "contrast_after": (0.5, 1.5), "saturation": (0.5, 1.5),
        "hue": (-0.1, 0.1),
    }.items():  # fmt: skip
        places = (drawn[name][drawn[name] != NEUTRAL[name]] - low) / (high - low)
        assert places.min() >= -1e-6
        assert places.max() <= 1 + 1e-6
        counts = np.histogram(places, 8, (0, 1))[0] / len(places)
        assert np.abs(counts - 1 / 8).max() < 4 * np.sqrt(1 / 8 * 7 / 8 / len(places)), name


def test_a_distorted_image_is_a_function_of_its_seed():
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.float32))
    seeds = [*range(20), *range(20)]
    found = [photometric_distortion(image, tf.constant([seed, 1])).numpy().tobytes() for seed in seeds]
    assert found[:20] == found[20:]
    assert len(set(found)) > 15
