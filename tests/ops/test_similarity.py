"""Similarities in closed form, and what padding may change: nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax.ops.similarity import SIMILARITIES, Tokens, unit

# Tokens of 3 images and 3 texts, made of sines; the texts have 6, 4 and 2 words.
b, r, d = np.ogrid[:3, :4, :5]
IMAGES = np.sin(0.7 * b + 1.3 * r + 0.9 * d + 0.1)
c, w, d = np.ogrid[:3, :6, :5]
TEXTS = np.cos(0.4 * c + 1.1 * w + 0.6 * d)
WORDS = np.arange(6) < np.array([6, 4, 2])[:, None]


def tokens(vectors, mask=None):
    mask = np.ones(vectors.shape[:2], bool) if mask is None else mask
    return Tokens(unit(jnp.asarray(vectors, jnp.float32)), jnp.asarray(mask))


def random_tokens(seed, count, length, features=8):
    rng = np.random.default_rng(seed)
    mask = np.arange(length) < rng.integers(1, length + 1, (count, 1))
    return tokens(rng.normal(size=(count, length, features)), mask)


def test_max_mean_is_the_mean_over_words_of_the_best_pixel():
    # Computed with torch, without this project.
    wanted = [
        [0.75981, 0.86854, 0.86336],
        [0.83376, 0.88565, 0.80238],
        [0.76540, 0.86077, 0.88308],
    ]
    found = SIMILARITIES["max_mean"](tokens(IMAGES), tokens(TEXTS, WORDS))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_cosine_is_that_of_mean_directions():
    images, texts = random_tokens(0, 3, 4), random_tokens(1, 5, 6)
    found = SIMILARITIES["cosine"](images, texts)

    def mean(one, n):
        return np.asarray(one.vectors, np.float64)[n][np.asarray(one.mask)[n]].mean(0)

    for i, t in np.ndindex(3, 5):
        x, y = mean(images, i), mean(texts, t)
        wanted = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert float(found[i, t]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_one_token_each_gives_their_cosine(name):
    images, texts = random_tokens(0, 3, 1), random_tokens(1, 5, 1)
    wanted = np.asarray(images.vectors)[:, 0] @ np.asarray(texts.vectors)[:, 0].T
    np.testing.assert_allclose(SIMILARITIES[name](images, texts), wanted, atol=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_padding_changes_nothing(name):
    images, texts = random_tokens(0, 4, 5), random_tokens(1, 6, 7)
    function = SIMILARITIES[name]

    def spoiled(one):
        garbage = jnp.where(one.mask[..., None], one.vectors, 1e3)
        return Tokens(garbage, one.mask)

    def total(x, y):
        return jnp.sum(jnp.sin(function(x, y)))

    want, wanted = jax.value_and_grad(total, (0, 1), allow_int=True)(images, texts)
    got, found = jax.value_and_grad(total, (0, 1), allow_int=True)(
        spoiled(images), spoiled(texts)
    )
    assert float(got) == pytest.approx(float(want), abs=1e-5)
    for one, grad, other in zip((images, texts), wanted, found, strict=True):
        np.testing.assert_allclose(grad.vectors, other.vectors, atol=1e-5)
        assert not np.asarray(other.vectors)[~np.asarray(one.mask)].any()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_nothing_to_compare_gives_zero_and_finite_gradients(name):
    images, texts = random_tokens(0, 3, 4), random_tokens(1, 3, 5)
    images = images.replace(mask=images.mask.at[1].set(False))
    texts = texts.replace(mask=texts.mask.at[2].set(False))

    def scores(x, y):
        return SIMILARITIES[name](images.replace(vectors=x), texts.replace(vectors=y))

    found = np.asarray(scores(images.vectors, texts.vectors))
    assert not found[1].any() and not found[:, 2].any() and found[0, 0]
    grads = jax.grad(lambda *x: jnp.sum(scores(*x)), (0, 1))(
        images.vectors, texts.vectors
    )
    assert all(np.isfinite(x).all() for x in grads)
