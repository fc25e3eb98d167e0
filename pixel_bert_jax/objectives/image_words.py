"""Image words: which words of an image's texts does one of its pixels show?

Multiple-instance learning from captions with a noisy OR (Fang et al., arXiv 1411.4952,
section 3): an image shows a word unless none of its pixels does,
1 - prod_p (1 - P(word | pixel p)). It needs no transformer and no labels but the texts,
and teaches a CNN that starts from scratch what a pre-trained one knows. Pixel-BERT
starts from ImageNet weights and has no such objective.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.config import Model
from pixel_bert_jax.models.heads import PixelWordHead
from pixel_bert_jax.objectives.base import Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.losses import (
    binary_cross_entropy,
    log_odds_of_any,
    weighted_sum,
)


@dataclasses.dataclass(frozen=True)
class ImageWords(Objective):
    """Presence of each word of the vocabulary in at least one pixel."""

    name = "image_words"
    needs = ("pixels",)
    images = None
    negatives = None

    def head(self, model: Model, text: TextSpec) -> nn.Module:
        """Returns the inner product with the word embedding."""
        return PixelWordHead(text.vocab_size, jnp.dtype(model.dtype))

    def count(self, view: View) -> Array:
        """Returns the number of groups that have a text."""
        return jnp.sum(jnp.any(view.mask, axis=-1).astype(jnp.float32))

    def loss(self, inputs: Inputs) -> Loss:
        """Sums the binary cross-entropy over the vocabulary and over groups."""
        view, visual = inputs.view, inputs.passes["pixels"]
        table = inputs.heads.word_embedding
        logits = inputs.heads["image_words"](visual.features, table)  # [G, M, P, V]
        logits = log_odds_of_any(logits, visual.mask[..., None], axis=(1, 2))
        real = view.text_mask & (view.mask & view.match)[..., None]
        ids = jnp.where(real, view.text_ids, -1)
        present = jnp.any(ids[..., None] == jnp.arange(logits.shape[-1]), axis=(1, 2))
        group = jnp.any(view.mask, axis=-1)
        # A group without a text has no weight. One without a pixel counts, but nothing
        # is learned from it: log-odds of 0 for every word.
        shows = group & jnp.any(visual.mask, axis=(1, 2))
        logits = jnp.where(shows[:, None], logits, 0.0)
        losses = jnp.sum(binary_cross_entropy(logits, present), axis=-1)
        loss, count = weighted_sum(losses, group)
        shown = weighted_sum(logits > 0, present & group[:, None])
        return Loss(loss, count, {"recall": shown})
