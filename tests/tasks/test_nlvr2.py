"""Pairs of images: of any two shapes, and in their order."""

import functools

import jax
import numpy as np
import pytest

from pixel_bert_jax.objectives.truth import joined
from pixel_bert_jax.tasks import Task, nlvr2
from tests import small

SQUARE = 48
SIZES = ((32, 48), (48, 32))  # a landscape and a portrait photo
TEXTS = 3


@functools.cache
def task():
    return Task(
        small.config(objectives={"truth": {"weight": 1.0}}, model__sample_pixels=0),
        small.text_spec(),
    )


@functools.cache
def variables():
    return jax.jit(task().init)(jax.random.key(0))


@functools.cache
def pair():
    """A group of both photos on the square canvas, and the photos themselves."""
    random = np.random.default_rng(1)
    photos = [random.normal(0, 1, (*size, 3)).astype(np.float32) for size in SIZES]
    image = np.zeros((1, 2, SQUARE, SQUARE, 3), np.float32)
    for m, photo in enumerate(photos):
        image[0, m, : photo.shape[0], : photo.shape[1]] = photo
    batch = small.batch(1, TEXTS, seed=2)
    arrays = {
        "image": image,
        "image_size": np.array([SIZES], np.int32),
        "text_ids": batch["text_ids"],
        "text_mask": batch["text_mask"],
    }
    return arrays, photos


def outputs(arrays):
    """Returns the joined [CLS] outputs [K, 2 D] and the log-odds [K]."""
    encoded, _ = task().encode(variables(), arrays)
    both = np.asarray(joined(encoded.pooled, (1, TEXTS)))[0]
    return both, np.asarray(nlvr2.judge(task(), variables(), arrays)["log_odds"])[0]


@pytest.mark.runs
def test_a_landscape_and_a_portrait_are_two_plain_passes():
    arrays, photos = pair()
    both, log_odds = outputs(arrays)
    halves = []
    for photo, size in zip(photos, SIZES, strict=True):
        plain = arrays | {
            "image": photo[None, None],
            "image_size": np.array([[size]], np.int32),
        }
        halves.append(np.asarray(task().encode(variables(), plain)[0].pooled))
    np.testing.assert_allclose(both, np.concatenate(halves, axis=1), atol=1e-5)
    heads = task().bind(variables())
    logits = np.asarray(heads["truth"](np.concatenate(halves, axis=1)))
    np.testing.assert_allclose(log_odds, logits[:, 1] - logits[:, 0], atol=1e-5)
    assert np.ptp(log_odds) > 1e-3  # the sentences are told apart


@pytest.mark.runs
def test_swapping_the_images_swaps_the_halves():
    arrays, _ = pair()
    both, log_odds = outputs(arrays)
    swapped = arrays | {k: arrays[k][:, ::-1] for k in ("image", "image_size")}
    other, other_odds = outputs(swapped)
    width = both.shape[1] // 2
    np.testing.assert_allclose(other[:, :width], both[:, width:], atol=1e-6)
    np.testing.assert_allclose(other[:, width:], both[:, :width], atol=1e-6)
    # The classifier knows left from right.
    assert np.abs(both[:, :width] - both[:, width:]).max() > 1e-2
    assert np.abs(log_odds - other_odds).max() > 1e-4


def test_padding_is_never_seen():
    arrays, _ = pair()
    garbage = arrays["image"].copy()
    garbage[0, 0, 32:] = 7.0
    garbage[0, 1, :, 32:] = np.float32(-3.0)
    _, log_odds = outputs(arrays)
    _, same = outputs(arrays | {"image": garbage})
    assert same == pytest.approx(log_odds, abs=1e-6)
