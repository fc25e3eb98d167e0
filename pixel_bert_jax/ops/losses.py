"""Losses as sums with weights; the caller divides by the weight of the whole batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Softmax cross-entropy in float32: -log softmax(logits)[label].

    Args:
      logits: [..., V].
      labels: [...] int32.

    Returns:
      [...] float32, in nats.
    """
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def weighted_sum(values: Array, weights: Array) -> tuple[Array, Array]:
    """Returns (sum of values where weighted, sum of weights), both float32 scalars."""
    weights = weights.astype(jnp.float32)
    return jnp.sum(values.astype(jnp.float32) * weights), jnp.sum(weights)
