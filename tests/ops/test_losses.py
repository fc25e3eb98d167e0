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
