"""Similarities in closed form, and what padding may change: nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax.ops.similarity import SIMILARITIES, Tokens, transport, unit

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


# Values of the official functions, run on the same vectors outside this project.
OFFICIAL = {
    "scan_t2i_lse": [
        [1.18579, 1.05493, 0.92510],
        [1.18125, 1.14242, 0.86659],
        [1.18977, 1.13123, 0.94779],
    ],
    "scan_t2i_mean": [
        [0.87185, 0.81695, 0.68241],
        [0.84344, 0.89879, 0.73898],
        [0.87900, 0.88836, 0.72900],
    ],
    "scan_i2t_lse": [
        [1.19628, 1.15924, 1.01048],
        [1.16977, 1.18708, 0.99565],
        [1.18191, 1.18182, 1.02102],
    ],
    "scan_i2t_mean": [
        [0.90782, 0.71641, 0.38338],
        [0.89044, 0.90366, 0.39284],
        [0.89711, 0.88454, 0.21966],
    ],
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_stacked_cross_attention_is_scans(name):
    found = SIMILARITIES[name](tokens(IMAGES), tokens(TEXTS, WORDS))
    np.testing.assert_allclose(found, OFFICIAL[name], atol=1e-5)


def raw(vectors, mask=None):
    mask = np.ones(vectors.shape[:2], bool) if mask is None else mask
    return Tokens(jnp.asarray(vectors, jnp.float32), jnp.asarray(mask))


PADDED = np.ones((3, 4), bool)
PADDED[2, 3] = False  # the last pixel of the last image


def test_the_words_loss_is_that_of_attngan():
    scores = 10 * SIMILARITIES["damsm"](raw(IMAGES), raw(TEXTS, WORDS))
    own = jnp.arange(3)
    losses = [
        -jnp.mean(jax.nn.log_softmax(x, axis=1)[own, own]) for x in (scores, scores.T)
    ]
    np.testing.assert_allclose(sorted(losses), [0.55849, 5.09636], atol=2e-5)


def test_grounding_scores_are_those_of_locov():
    images, texts = raw(5 * IMAGES, PADDED), raw(5 * TEXTS, WORDS)
    wanted = {
        "locov_t2i": [
            [-4.63743, -5.28985, -4.36603],
            [-5.43725, -5.44444, -5.41933],
            [-5.22985, -4.62686, -5.35903],
        ],
        "locov_i2t": [
            [-5.11043, -5.46281, -5.33149],
            [-4.58463, -5.52640, -5.43577],
            [-3.13771, -3.11968, -4.07524],
        ],
    }
    for name, distances in wanted.items():  # a row for each caption
        found = SIMILARITIES[name](images, texts)
        np.testing.assert_allclose(-found.T, distances, atol=1e-5)


def test_the_cost_of_transport_is_uniters():
    found = SIMILARITIES["transport"](tokens(IMAGES, PADDED), tokens(TEXTS, WORDS))
    np.testing.assert_allclose(-jnp.diag(found), [0.24440, 0.11435, 0.39819], atol=1e-5)
    same = tokens(np.eye(2)[None])
    assert abs(float(SIMILARITIES["transport"](same, same)[0, 0])) < 1e-6
    few = transport(same, same, steps=1)
    assert float(-few[0, 0]) == pytest.approx(0.1192029, abs=1e-6)


def test_max_sum_is_max_mean_times_the_number_of_words():
    images, texts = random_tokens(0, 3, 4), random_tokens(1, 5, 6)
    count = np.asarray(texts.mask).sum(1).astype(np.float32)
    found = SIMILARITIES["max_sum"](images, texts)
    wanted = SIMILARITIES["max_mean"](images, texts) * count
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_cosine_is_that_of_mean_directions():
    images, texts = random_tokens(0, 3, 4), random_tokens(1, 5, 6)
    found = SIMILARITIES["cosine"](images, texts)

    def mean(one, n):
        return np.asarray(one.vectors, np.float64)[n][np.asarray(one.mask)[n]].mean(0)

    for i, t in np.ndindex(3, 5):
        x, y = mean(images, i), mean(texts, t)
        wanted = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert float(found[i, t]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ["cosine", "max_mean", "max_sum", "scan_t2i_mean"])
def test_one_token_each_gives_their_cosine(name):
    images, texts = random_tokens(0, 3, 1), random_tokens(1, 5, 1)
    wanted = np.asarray(images.vectors)[:, 0] @ np.asarray(texts.vectors)[:, 0].T
    np.testing.assert_allclose(SIMILARITIES[name](images, texts), wanted, atol=1e-5)


QUICK = ("cosine", "max_mean", "scan_t2i_lse")
EVERY = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.runs)
    for name in SIMILARITIES
]


@pytest.mark.parametrize("name", EVERY)
def test_padding_changes_nothing(name):
    images, texts = random_tokens(0, 4, 5), random_tokens(1, 6, 7)
    function = SIMILARITIES[name]

    def spoiled(one):
        garbage = jnp.where(one.mask[..., None], one.vectors, 1e3)
        return Tokens(garbage, one.mask)

    def total(x, y):
        return jnp.sum(jnp.sin(function(x, y)))

    both = jax.jit(jax.value_and_grad(total, (0, 1), allow_int=True))
    want, wanted = both(images, texts)
    got, found = both(spoiled(images), spoiled(texts))
    assert float(got) == pytest.approx(float(want), abs=1e-5)
    for one, grad, other in zip((images, texts), wanted, found, strict=True):
        np.testing.assert_allclose(grad.vectors, other.vectors, atol=1e-5)
        assert not np.asarray(other.vectors)[~np.asarray(one.mask)].any()


@pytest.mark.parametrize("name", EVERY)
def test_nothing_to_compare_gives_zero_and_finite_gradients(name):
    images, texts = random_tokens(0, 3, 4), random_tokens(1, 3, 5)
    images = images.replace(mask=images.mask.at[1].set(False))
    texts = texts.replace(mask=texts.mask.at[2].set(False))

    def total(x, y):
        sides = images.replace(vectors=x), texts.replace(vectors=y)
        found = SIMILARITIES[name](*sides)
        return jnp.sum(found), found

    both = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, found), grads = both(images.vectors, texts.vectors)
    found = np.asarray(found)
    assert not found[1].any() and not found[:, 2].any() and found[0, 0]
    assert all(np.isfinite(x).all() for x in grads)
