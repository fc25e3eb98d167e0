"""Masked language modelling: predict the masked words from the others and the pixels.

L = -E log P(w_m | w_without_m, I), arXiv 2004.00849, section 3.5. Only the masked
positions are projected onto the vocabulary.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.config import Model
from pixel_bert_jax.models.heads import MaskedWordHead
from pixel_bert_jax.objectives.base import Heads, Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.losses import cross_entropy, weighted_sum


def masked_word_logits(heads: Heads, text: Array, positions: Array) -> Array:
    """Projects the encoder's outputs at some positions onto the vocabulary.

    Args:
      heads: heads with "mlm" among them.
      text: [B, L, D].
      positions: [B, m] int32.

    Returns:
      [B, m, V] float32.
    """
    picked = jnp.take_along_axis(text, positions[..., None], axis=1)
    return heads["mlm"](picked, heads.word_embedding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLanguageModelling(Objective):
    """MLM, by default on ITM's view, so that one forward pass serves both.

    Attributes:
      on_swapped: whether masked tokens of mismatched pairs count as well.
      view: "masked", matched pairs alone, or "swapped_masked".
    """

    on_swapped: bool
    view: str = "swapped_masked"
    name = "mlm"
    views = ("masked", "swapped_masked")

    def head(self, model: Model, text: TextSpec) -> nn.Module:
        """Returns BERT's MLM head."""
        return MaskedWordHead(
            model.features, text.vocab_size, model.init_std, jnp.dtype(model.dtype)
        )

    def _weights(self, view: View) -> Array:
        weights = view.masked.weights
        return weights if self.on_swapped else weights & view.match[..., None]

    def count(self, view: View) -> Array:
        """Returns the number of predicted tokens."""
        return jnp.sum(self._weights(view).astype(jnp.float32))

    def loss(self, inputs: Inputs) -> Loss:
        """Sums -log P over the predicted tokens; reports accuracy on matched pairs."""
        view = inputs.view
        slots = view.masked.positions.shape[-1]
        labels = view.masked.labels.reshape(-1, slots)
        weights = self._weights(view).reshape(-1, slots)
        positions = view.masked.positions.reshape(-1, slots)
        encoded = inputs.passes["fused"]
        logits = masked_word_logits(inputs.heads, encoded.text, positions)
        loss, count = weighted_sum(cross_entropy(logits, labels), weights)
        matched = weights & view.match.reshape(-1, 1)
        hits = weighted_sum(jnp.argmax(logits, axis=-1) == labels, matched)
        return Loss(loss, count, {"accuracy": hits})
