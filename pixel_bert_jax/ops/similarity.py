"""Similarities of images and texts whose tokens were encoded apart from each other.

Each is a pure function of unit vectors, the tokens of N images and of T texts, and
compares every image with every text: a new one is a function and one line in
SIMILARITIES.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from flax import struct
from jax import Array

from pixel_bert_jax.ops.losses import at_least_float32

NOWHERE = -1e9  # similarity with what is padding


@struct.dataclass
class Tokens:
    """Unit vectors of the tokens of images or of texts."""

    vectors: Array  # [N, P, D]
    mask: Array  # [N, P] bool


def unit(x: Array) -> Array:
    """Scales vectors [..., D] to length 1; a zero vector stays, with gradient 0."""
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-8)


def mean_vector(tokens: Tokens) -> Array:
    """Returns the unit vector [N, D] in the direction of the tokens' mean."""
    vectors = jnp.where(tokens.mask[..., None], tokens.vectors, 0.0)
    return unit(jnp.sum(vectors, axis=1))


def cosine(images: Tokens, texts: Tokens) -> Array:
    """Cosine of the tokens' means, [N, T] in [-1, 1]."""
    return _products("nd,td->nt", mean_vector(images), mean_vector(texts))


def max_mean(images: Tokens, texts: Tokens) -> Array:
    """Mean over words of the largest cosine with a pixel, [N, T] in [-1, 1].

    FILIP's text-to-image similarity (Yao et al., arXiv 2111.07783, section 3.1). An
    image or a text without any token gives 0.
    """
    cosines = _products("npd,tld->ntlp", images.vectors, texts.vectors)
    cosines = jnp.where(images.mask[:, None, None], cosines, NOWHERE)
    seen = jnp.any(images.mask, axis=1)[:, None, None] & texts.mask
    best = jnp.where(seen, jnp.max(cosines, axis=-1), 0.0)
    count = jnp.sum(texts.mask, axis=-1).astype(best.dtype)
    return jnp.sum(best, axis=-1) / jnp.maximum(count, 1.0)


SIMILARITIES: dict[str, Callable[[Tokens, Tokens], Array]] = {
    "cosine": cosine,
    "max_mean": max_mean,
}


def _products(axes: str, x: Array, y: Array) -> Array:
    # The default precision of TPUs would round the operands to bfloat16.
    return jnp.einsum(axes, at_least_float32(x), at_least_float32(y), precision="high")
