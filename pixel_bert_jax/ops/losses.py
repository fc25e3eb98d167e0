"""Losses as sums with weights; the caller divides by the weight of the whole batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array


def at_least_float32(x: Array) -> Array:
    """Casts to float32; float64 stays, for close comparisons of gradients."""
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
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Sigmoid cross-entropy: -l log sigmoid(logit) - (1 - l) log sigmoid(-logit).

    Args:
      logits: [...].
      labels: [...] l, bool, or probabilities in [0, 1].

    Returns:
      [...] in nats, at least float32.
    """
    return optax.sigmoid_binary_cross_entropy(at_least_float32(logits), labels)


def log_odds_of_any(logits: Array, where: Array, axis: int | tuple[int, ...]) -> Array:
    """Noisy OR: log-odds that at least one of several independent events happens.

    log(P / (1 - P)) with P = 1 - prod_i (1 - sigmoid(logit_i)), from
    s = -log(1 - P) = sum_i softplus(logit_i) as log(exp(s) - 1).

    Args:
      logits: [...] log-odds of each event.
      where: broadcastable to `logits`, bool: the events that count.
      axis: of the events.

    Returns:
      The log-odds without those axes, at least float32. If nothing counts they are
      finite, very small, and have no gradient.
    """
    logits = at_least_float32(logits)
    none = jnp.sum(jnp.where(where, jax.nn.softplus(logits), 0.0), axis=axis)
    # log(exp(s) - 1) = s + log(1 - exp(-s)), which neither overflows nor cancels.
    none = jnp.maximum(none, jnp.finfo(none.dtype).tiny)
    return none + jnp.log(-jnp.expm1(-none))


def weighted_sum(values: Array, weights: Array) -> tuple[Array, Array]:
    """Returns (sum of values where weighted, sum of weights), scalars.

    Args:
      values: [...], any dtype; summed in at least float32.
      weights: [...], bool or numbers.
    """
    values = at_least_float32(values)
    weights = weights.astype(values.dtype)
    return jnp.sum(values * weights), jnp.sum(weights)
