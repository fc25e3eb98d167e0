"""Heads: small networks on top of the encoder, one per objective."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from pixel_bert_jax.models.bert import LayerNorm, init
from pixel_bert_jax.models.pixel_bert import Alone
from pixel_bert_jax.ops.losses import at_least_float32
from pixel_bert_jax.ops.similarity import Tokens, unit

MAX_SCALE = 100.0  # of similarities, as in CLIP (arXiv 2103.00020, section 2.5)


class MaskedWordHead(nn.Module):
    """BERT's MLM head: dense, GELU, layer norm, decoder tied to the word embedding.

    Attributes:
      features: D.
      vocab_size: V.
      init_std: standard deviation of the initial kernel.
      dtype: dtype of the products.
    """

    features: int
    vocab_size: int
    init_std: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, word_embedding: Array) -> Array:
        """Maps x [..., D] and the word embedding [V, D] to logits [..., V] float32."""
        x = nn.Dense(
            self.features,
            dtype=self.dtype,
            kernel_init=init(self.init_std),
            name="transform",
        )(x)
        x = LayerNorm(output=self.dtype, name="norm")(nn.gelu(x, approximate=False))
        bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
        return _word_products(x, word_embedding, self.dtype) + bias


class MatchHead(nn.Module):
    """Linear classifier of the [CLS] output: class 1 means that the pair matches.

    Attributes:
      init_std: standard deviation of the initial kernel.
    """

    init_std: float

    @nn.compact
    def __call__(self, pooled: Array) -> Array:
        """Maps pooled [B, D] to logits [B, 2] float32."""
        classifier = nn.Dense(2, kernel_init=init(self.init_std), name="classifier")
        return classifier(at_least_float32(pooled))


class ScoreHead(nn.Module):
    """Linear layer over the [CLS] output: how well a pair matches, as one number.

    Attributes:
      init_std: standard deviation of the initial kernel.
    """

    init_std: float

    @nn.compact
    def __call__(self, pooled: Array) -> Array:
        """Maps pooled [B, D] to scores [B], at least float32."""
        score = nn.Dense(1, kernel_init=init(self.init_std), name="score")
        return score(at_least_float32(pooled))[..., 0]


class MultilayerHead(nn.Module):
    """Classifier of one or several [CLS] outputs: dense, GELU, layer norm, dense.

    The form that LXMERT, UNITER and ViLT use; the paper says "MLP" for VQA and nothing
    for NLVR2.

    Attributes:
      outputs: number of classes.
      hidden: width of the first layer; 0 leaves only the last one.
      init_std: standard deviation of the initial kernels.
    """

    outputs: int
    hidden: int
    init_std: float

    @nn.compact
    def __call__(self, pooled: Array) -> Array:
        """Maps [..., D] to logits [..., outputs], at least float32."""
        x = at_least_float32(pooled)
        start = init(self.init_std)
        if self.hidden:
            x = nn.Dense(self.hidden, kernel_init=start, name="transform")(x)
            x = LayerNorm(name="norm")(nn.gelu(x, approximate=False))
        return nn.Dense(self.outputs, kernel_init=start, name="classifier")(x)


class PixelWordHead(nn.Module):
    """How much each pixel shows each word: their inner product plus a bias per word.

    Tied to the word embedding like the MLM head, so that a pixel comes to lie near the
    words it shows (like the visual features of OVR-CNN, arXiv 2011.10678).

    Attributes:
      vocab_size: V.
      dtype: dtype of the product.
    """

    vocab_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Array, word_embedding: Array) -> Array:
        """Maps pixels [..., D] and the word embedding [V, D] to log-odds [..., V]."""
        rare = nn.initializers.constant(-6.0)  # most words are absent from an image
        bias = self.param("bias", rare, (self.vocab_size,))
        return _word_products(pixels, word_embedding, self.dtype) + bias


class ContrastHead(nn.Module):
    """Unit vectors of pixels and of words that were encoded apart, and their scale.

    Attributes:
      features: D.
      dtype: dtype of the products.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Makes the projections, which leave the encoder's output as it is at first."""

        def projection() -> nn.Dense:
            identity = nn.initializers.constant(np.eye(self.features))
            return nn.Dense(
                self.features, use_bias=False, dtype=self.dtype, kernel_init=identity
            )

        self.image, self.text = projection(), projection()
        # CLIP's first temperature (arXiv 2103.00020, section 2.5).
        first = nn.initializers.constant(math.log(1 / 0.07))
        self.log_scale = self.param("log_scale", first, ())

    def __call__(
        self, pixels: Alone | None, words: Alone | None
    ) -> tuple[Tokens | None, Tokens | None, Array]:
        """Returns the vectors of G images and of G K texts.

        Args:
          pixels: output for images [G, 1], or None.
          words: output for texts [G, K], or None. [CLS] and [SEP], the first token and
            the last, are no words.

        Returns:
          Tokens of the images, of the texts (None if not given), and the factor of
          their similarity in a softmax, at most 100.
        """
        images = texts = None
        if pixels is not None:
            images = _tokens(self.image, pixels.features, pixels.mask)
        if words is not None:
            inside = words.mask.at[..., 0].set(False)
            followed = jnp.roll(words.mask, -1, axis=-1).at[..., -1].set(False)
            texts = _tokens(self.text, words.features, inside & followed)
        return images, texts, jnp.minimum(jnp.exp(self.log_scale), MAX_SCALE)


def _tokens(project: nn.Dense, features: Array, mask: Array) -> Tokens:
    """Merges the first two axes; [G, K, L, D] gives the tokens of G K texts."""
    vectors = unit(at_least_float32(project(features)))
    flat = vectors.reshape(-1, *vectors.shape[2:])
    return Tokens(flat, mask.reshape(-1, mask.shape[-1]))


def _word_products(x: Array, word_embedding: Array, dtype: jnp.dtype) -> Array:
    """Maps x [..., D] and [V, D] to inner products [..., V], at least float32."""
    return jnp.einsum(
        "...d,vd->...v",
        x.astype(dtype),
        word_embedding.astype(dtype),
        preferred_element_type=jnp.float64 if dtype == jnp.float64 else jnp.float32,
    )
