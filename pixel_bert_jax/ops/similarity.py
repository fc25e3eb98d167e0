"""Similarities of images and texts whose tokens were encoded apart from each other.

Each is a pure function of unit vectors, the tokens of N images and of T texts, and
compares every image with every text: a new one is a function and one line in
SIMILARITIES.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct
from jax import Array, lax, nn
from jax.nn import logsumexp

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
    best, mask = _best_pixels(images, texts)
    return _mean(best, mask)


def max_sum(images: Tokens, texts: Tokens) -> Array:
    """Sum over words of the largest product with a pixel, [N, T].

    Of vectors of any length it is the score of Karpathy and Fei-Fei (arXiv 1412.2306,
    equation 8), of unit vectors ALADIN's (arXiv 2207.14757, alad/loss.py, "MrSw"),
    which fills padding with 0 instead of leaving it out.
    """
    best, mask = _best_pixels(images, texts)
    return jnp.sum(jnp.where(mask, best, 0.0), axis=-1)


def scan(images: Tokens, texts: Tokens, *, words: bool, pool: str) -> Array:
    """Stacked cross attention (SCAN, arXiv 1803.08024; its code: model.py), [N, T].

    Products pass a leaky ReLU and are normalised over the queries; each query attends
    to the other side and is compared with what it attends to.

    Args:
      images: unit vectors of pixels.
      texts: unit vectors of words.
      words: whether words are the queries ("t2i"), otherwise pixels ("i2t").
      pool: "mean" or "lse" over the queries.
    """
    sharpness, pool_sharpness = (9.0, 6.0) if words else (4.0, 5.0)
    side = _Sides(images, texts, words)
    clipped = jnp.where(side.pairs, nn.leaky_relu(side.products, 0.1), 0.0)
    clipped /= jnp.sqrt(jnp.sum(clipped**2, axis=2, keepdims=True) + 1e-16) + 1e-8
    found = side.attended(sharpness * clipped)
    if pool == "mean":
        return _mean(found, side.queries)
    return _log_sum(found, side.queries, pool_sharpness) / pool_sharpness


def damsm(images: Tokens, texts: Tokens) -> Array:
    """AttnGAN's words score (arXiv 1711.10485; its code: GlobalAttention.py), [N, T].

    The softmax over words comes first, then words attend to pixels. As in the code, and
    unlike equation 10 of the paper, the log-sum is not divided by its sharpness.
    """
    side = _Sides(images, texts, True)
    weights = _softmax(side.products, side.pairs, axis=2)
    return _log_sum(side.attended(4.0 * weights), side.queries, 5.0)


def locov(images: Tokens, texts: Tokens, *, words: bool) -> Array:
    """Grounding score of LocOv (arXiv 2205.06160; grounding_head.py), [N, T].

    Mean over queries of their products, divided by 10, with what they attend to.

    Args:
      images: vectors of pixels.
      texts: vectors of words.
      words: whether words are the queries, otherwise pixels.
    """
    side = _Sides(images, texts, words)
    products = side.products / 10.0
    weights = _softmax(products, side.pairs, axis=3)
    return _mean(jnp.sum(weights * products, axis=3), side.queries)


def transport(images: Tokens, texts: Tokens, *, steps: int = 50) -> Array:
    """Minus the cost of moving words onto pixels, [N, T] in [-2, 0].

    UNITER's distance of optimal transport between uniform masses with cost 1 - cosine
    (arXiv 1909.11740, section 3.2; its code: model/ot.py) by proximal points (IPOT, Xie
    et al., arXiv 1802.04307), beta 0.5. The plan has no gradient, its cost has.

    Args:
      images: unit vectors of pixels.
      texts: unit vectors of words.
      steps: iterations; 50 are within 0.1 % of the exact plan.
    """
    side = _Sides(images, texts, True)
    cost = jnp.where(side.pairs, 1.0 - side.products, 0.0)
    plan = lax.stop_gradient(_transport_plan(cost, side, steps))
    return -jnp.sum(plan * cost, axis=(2, 3))


SIMILARITIES: dict[str, Callable[[Tokens, Tokens], Array]] = {
    "cosine": cosine,
    "max_mean": max_mean,
    "max_sum": max_sum,
    "scan_t2i_mean": functools.partial(scan, words=True, pool="mean"),
    "scan_t2i_lse": functools.partial(scan, words=True, pool="lse"),
    "scan_i2t_mean": functools.partial(scan, words=False, pool="mean"),
    "scan_i2t_lse": functools.partial(scan, words=False, pool="lse"),
    "damsm": damsm,
    "locov_t2i": functools.partial(locov, words=True),
    "locov_i2t": functools.partial(locov, words=False),
    "transport": transport,
}


class _Sides:
    """Queries of one side and the context of the other, for N images and T texts.

    Attributes:
      products: [N, T, Q, C] of each query with each token of the context.
      queries: [N, T, Q] bool.
      context: [N, T, C] bool.
      pairs: [N, T, Q, C] bool: both are no padding.
    """

    def __init__(self, images: Tokens, texts: Tokens, words: bool):
        products = _products("npd,tld->ntlp", images.vectors, texts.vectors)
        image, text = images.mask[:, None], texts.mask[None]
        norms = [_norms(one.vectors) for one in (images, texts)]
        queries, context = (text, image) if words else (image, text)
        self.products = products if words else jnp.swapaxes(products, 2, 3)
        self.pairs = queries[..., :, None] & context[..., None, :]
        # A query without any context does not count, nor the other way round.
        self.queries, self.context = (jnp.any(self.pairs, axis=a) for a in (3, 2))
        self._norms = norms[1][None] if words else norms[0][:, None]
        # What queries attend to is never made: its norm follows from the products of
        # the context with itself, [N, P, P] or [T, L, L].
        self._context, self._axes = (images, "n") if words else (texts, "t")

    def attended(self, logits: Array) -> Array:
        """Cosine of each query with the context that it attends to, [N, T, Q]."""
        weights = _softmax(logits, self.pairs, axis=3)
        vectors = self._context.vectors
        gram = _products("xcd,xed->xce", vectors, vectors)
        square = jnp.einsum(
            f"ntqc,{self._axes}ce,ntqe->ntq", weights, gram, weights, precision="high"
        )
        norms = self._norms * jnp.sqrt(jnp.maximum(square, 1e-16))
        return jnp.sum(weights * self.products, axis=3) / jnp.maximum(norms, 1e-8)


def _best_pixels(images: Tokens, texts: Tokens) -> tuple[Array, Array]:
    """Returns each word's largest product with a pixel, and which words count."""
    side = _Sides(images, texts, True)
    best = jnp.max(jnp.where(side.pairs, side.products, NOWHERE), axis=3)
    return best, side.queries


def _transport_plan(cost: Array, side: _Sides, steps: int) -> Array:
    """Returns the masses [N, T, Q, C] moved between uniform distributions."""
    pairs = side.pairs.astype(cost.dtype)
    kernel = jnp.exp(-cost / 0.5) * pairs

    def uniform(mask: Array) -> Array:
        ones = mask.astype(cost.dtype)
        return ones / jnp.maximum(jnp.sum(ones, axis=-1, keepdims=True), 1.0)

    rows, columns = uniform(side.queries), uniform(side.context)

    def ratio(mass: Array, total: Array) -> Array:
        return jnp.where(mass > 0, mass / jnp.where(total > 0, total, 1.0), 0.0)

    def step(_: Any, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        plan, scale = carried
        plan = kernel * plan
        other = ratio(columns, jnp.einsum("ntqc,ntq->ntc", plan, scale))
        scale = ratio(rows, jnp.einsum("ntqc,ntc->ntq", plan, other))
        return plan * scale[..., :, None] * other[..., None, :], scale

    plan, _ = lax.fori_loop(0, steps, step, (pairs, rows))
    return plan


def _softmax(logits: Array, mask: Array, axis: int) -> Array:
    """Softmax over what is no padding; 0 where there is nothing."""
    weights = nn.softmax(jnp.where(mask, logits, NOWHERE), axis=axis)
    return jnp.where(mask, weights, 0.0)


def _mean(values: Array, mask: Array) -> Array:
    """Mean over the last axis; 0 where nothing counts."""
    count = jnp.sum(mask, axis=-1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1) / jnp.maximum(count, 1.0)


def _log_sum(values: Array, mask: Array, sharpness: float) -> Array:
    """Log sum exp(sharpness x value) over the last axis; 0 where nothing counts."""
    found = logsumexp(jnp.where(mask, sharpness * values, NOWHERE), axis=-1)
    return jnp.where(jnp.any(mask, axis=-1), found, 0.0)


def _norms(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(at_least_float32(x) ** 2, axis=-1) + 1e-16)


def _products(axes: str, x: Array, y: Array) -> Array:
    # The default precision of TPUs would round the operands to bfloat16.
    return jnp.einsum(axes, at_least_float32(x), at_least_float32(y), precision="high")
