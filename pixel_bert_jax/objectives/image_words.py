"""Image words: which words of an image's texts does one of its pixels show?

Multiple-instance learning from captions with a noisy OR (Fang et al., arXiv 1411.4952,
section 3): an image shows a word unless none of its pixels does,
1 - prod_p (1 - P(word | pixel p)). It needs no transformer and no label but the texts,
and gives a CNN that starts from scratch what a pre-trained one has. Pixel-BERT starts
from ImageNet weights and has no such objective.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.front_ends import VisualTokens
from pixel_bert_jax.models.heads import PixelWordHead
from pixel_bert_jax.objectives.base import Heads, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.losses import (
    binary_cross_entropy,
    log_odds_of_any,
    weighted_sum,
)
from pixel_bert_jax.types import Sums


@dataclasses.dataclass(frozen=True)
class ImageWords:
    """Presence of every word of the vocabulary in at least one pixel.

    Attributes:
      weight: multiplier of the loss.
    """

    weight: float
    name: str = "image_words"
    view: str = "clean"
    reads: str = "pixels"

    def head(self, model: Mapping[str, Any], text: TextSpec) -> nn.Module:
        """Returns the inner product with the word embedding."""
        return PixelWordHead(text.vocab_size, jnp.dtype(model["dtype"]))

    def head_inputs(self, features: int, text: TextSpec) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes of pixels and of the word embedding."""
        return (1, features), (text.vocab_size, features)

    def count(self, view: View) -> Array:
        """Returns the number of groups that have a text."""
        return jnp.sum(jnp.any(view.mask, axis=-1).astype(jnp.float32))

    def loss(
        self, heads: Heads, encoded: VisualTokens, view: View
    ) -> tuple[Array, Sums]:
        """Sums the binary cross-entropy over the vocabulary and over groups."""
        table = heads["word_embedding"]()
        logits = heads["image_words"](encoded.features, table)  # [G, M, P, V]
        logits = log_odds_of_any(logits, encoded.mask[..., None], axis=(1, 2))
        real = view.text_mask & (view.mask & view.match)[..., None]
        ids = jnp.where(real, view.text_ids, -1)
        present = jnp.any(ids[..., None] == jnp.arange(logits.shape[-1]), axis=(1, 2))
        group = jnp.any(view.mask, axis=-1)
        # Without a text a group has no weight; without a pixel it counts, but nothing
        # can be learned from it: every word is as likely as not.
        shows = group & jnp.any(encoded.mask, axis=(1, 2))
        logits = jnp.where(shows[:, None], logits, 0.0)
        loss = jnp.sum(binary_cross_entropy(logits, present), axis=-1)
        total, count = weighted_sum(loss, group)
        shown = weighted_sum(logits > 0, present & group[:, None])
        return total, {"image_words/loss": (total, count), "image_words/recall": shown}
