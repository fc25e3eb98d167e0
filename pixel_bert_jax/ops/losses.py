"""Losses as sums with weights; the caller divides by the weight of the whole batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def at_least_float32(x: Array) -> Array:
    """Casts to float32; float64 stays, in which gradients can be compared closely."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Softmax cross-entropy: -log softmax(logits)[label].

    Args:
      logits: [..., V].
      labels: [...] int32.

    Returns:
      [...] in nats, at least float32.
    """
    logits = at_least_float32(logits)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Sigmoid cross-entropy: -log sigmoid(logit) if True, else -log sigmoid(-logit).

    Args:
      logits: [...].
      labels: [...] bool.

    Returns:
      [...] in nats, at least float32.
    """
    logits = at_least_float32(logits)
    return jax.nn.softplus(jnp.where(labels, -logits, logits))


def weighted_sum(values: Array, weights: Array) -> tuple[Array, Array]:
    """Returns (sum of values where weighted, sum of weights), scalars.

    Args:
      values: [...], any dtype; summed in at least float32.
      weights: [...], bool or numbers.
    """
    values = at_least_float32(values)
    weights = weights.astype(values.dtype)
    return jnp.sum(values * weights), jnp.sum(weights)
