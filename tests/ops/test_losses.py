"""Cross-entropy against its closed form in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from pixel_bert_jax.ops import losses

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 4, (3, 5, 11)).astype(np.float32)
LABELS = RANDOM.integers(0, 11, (3, 5)).astype(np.int32)


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_cross_entropy_is_minus_log_of_the_labels_probability():
    picked = np.take_along_axis(softmax(LOGITS), LABELS[..., None], -1)[..., 0]
    got = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, -np.log(picked), rtol=1e-5, atol=1e-6)


def test_gradient_is_probability_minus_one_hot():
    got = jax.grad(lambda x: losses.cross_entropy(x, jnp.asarray(LABELS)).sum())(
        jnp.asarray(LOGITS)
    )
    want = softmax(LOGITS) - np.eye(11)[LABELS]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_huge_and_half_precision_logits_stay_finite():
    logits = jnp.asarray([[3e4, -3e4, 0.0]], jnp.bfloat16)
    got = losses.cross_entropy(logits, jnp.asarray([0]))
    np.testing.assert_allclose(got, [0.0], atol=1e-6)


def test_weighted_sum_adds_only_what_is_weighted():
    values = jnp.asarray([[1.0, 2.0], [4.0, 8.0]])
    total, count = losses.weighted_sum(values, values > 1.5)
    assert (float(total), float(count)) == (14.0, 3.0)


def test_binary_cross_entropy_is_that_of_the_sigmoid():
    labels = LOGITS > 1
    got = losses.binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels))
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    np.testing.assert_allclose(got, -np.log(np.where(labels, p, 1 - p)), rtol=1e-5)


def test_binary_cross_entropy_takes_soft_labels_without_cancellation():
    logits, labels = np.array([0.5, 40.0], np.float32), np.array([0.3, 1.0], np.float32)
    got = losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    want = np.log1p(np.exp(np.float64(logits))) - labels.astype(np.float64) * logits
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], np.exp(-40.0), rtol=1e-5)  # not 0


def test_noisy_or_is_one_minus_the_product_of_what_is_missing():
    where = RANDOM.random((3, 5, 1)) < 0.7
    where[:, 0] = True
    got = losses.log_odds_of_any(jnp.asarray(LOGITS), jnp.asarray(where), axis=1)
    none = np.where(where, 1 / (1 + np.exp(LOGITS.astype(np.float64))), 1.0).prod(1)
    np.testing.assert_allclose(got, np.log((1 - none) / none), rtol=1e-5, atol=1e-5)


def test_noisy_or_neither_overflows_nor_cancels():
    logits = jnp.asarray([[-60.0, -61.0], [90.0, 100.0], [3e4, 0.0], [-3e4, -3e4]])
    real = jnp.ones((4, 1), bool).at[3].set(False)

    def total(x):
        return losses.log_odds_of_any(x, real, axis=1)

    sure = np.log(np.exp(-60.0) + np.exp(-61.0))
    got = total(logits)
    np.testing.assert_allclose(got[:2], [sure, 190.0], rtol=1e-6)
    assert np.isfinite(got).all() and got[3] < -80
    gradient = jax.grad(lambda x: total(x).sum())(logits)
    assert np.isfinite(gradient).all()
    odds = np.exp([-60.0, -61.0])
    np.testing.assert_allclose(gradient[0], odds / odds.sum(), rtol=1e-5)
    assert not gradient[3].any()
