"""Samples of anchors: as many as asked for, at random, and the same everywhere."""

import numpy as np
import pytest

from tests.layers.box_sets import on_arrays
from tfvt.layers.sampling import sample


def mixed(x):
    """lowbias32 of whole numbers, in Python's integers."""
    x &= 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x ^= x >> shift
        x = x * factor & 0xFFFFFFFF
    return x


def expected_sample(state, seed, number, share, stream):
    key = mixed(mixed(mixed(int(seed[0])) ^ (int(seed[1]) & 0xFFFFFFFF)) + stream)
    order = sorted(range(len(state)), key=lambda place: -(mixed(key ^ place) & 0xFFFFFF))
    positives = [place for place in order if state[place] == 1][: int(number * share)]
    negatives = [place for place in order if state[place] == 0][: number - len(positives)]
    return positives, negatives


@pytest.mark.parametrize("chances", [(0.1, 0.5, 0.4), (0.0, 0.99, 0.01), (0.9, 0.05, 0.05), (0, 0.01, 0.99), (1, 0, 0)])
def test_draws(chances):
    """Also with too few positives, too few negatives, and nothing at all to draw."""
    state = np.random.default_rng(0).choice([1, 0, -1], (3, 90), p=chances).astype("int32")
    seeds = np.array([[0, 0], [1, -5], [2**31 - 1, 7]], "int32")
    indices, drawn = on_arrays(sample, number=16, positive_fraction=0.25, stream=3)(state, seeds)
    assert (indices.dtype, drawn.dtype) == (np.int32, np.int32)
    for image in range(3):
        positives, negatives = expected_sample(state[image], seeds[image], 16, 0.25, 3)
        empty = 16 - len(positives) - len(negatives)
        np.testing.assert_array_equal(drawn[image], [1] * len(positives) + [0] * len(negatives) + [-1] * empty)
        np.testing.assert_array_equal(indices[image][: 16 - empty], positives + negatives)
        assert ((indices[image] >= 0) & (indices[image] < 90)).all()


def test_fewer_anchors_than_draws():
    indices, drawn = on_arrays(sample, number=8, positive_fraction=0.5)(np.array([[0, 1, -1]], "int32"), [[1, 2]])
    np.testing.assert_array_equal(drawn[0], [1, 0] + [-1] * 6)
    np.testing.assert_array_equal(indices[0, :2], [1, 0])
    assert indices.max() <= 2


def test_every_anchor_is_drawn_equally_often():
    """Of 400 seeds each of 40 anchors has 100 draws, give or take chance; streams do not agree."""
    state = np.zeros((400, 40), "int32")
    seeds = np.stack([np.arange(400), np.zeros(400)], axis=-1).astype("int32")
    first, second = (on_arrays(sample, number=10, positive_fraction=0.5, stream=s)(state, seeds)[0] for s in range(2))
    counts = np.bincount(first.ravel(), minlength=40)
    assert counts.sum() == 4000
    assert 55 < counts.min() <= counts.max() < 145  # five standard deviations
    shared = np.mean([len(set(a) & set(b)) for a, b in zip(first, second, strict=True)])
    assert 2 < shared < 3  # 2.5 by chance


def test_an_image_draws_the_same_in_any_batch():
    state = np.random.default_rng(1).choice([1, 0, -1], (4, 50)).astype("int32")
    seeds = np.arange(8, dtype="int32").reshape(4, 2)
    draw = on_arrays(sample, number=12, positive_fraction=0.5)
    for whole, part in zip(draw(state, seeds), draw(state[2:], seeds[2:]), strict=True):
        np.testing.assert_array_equal(whole[2:], part)
