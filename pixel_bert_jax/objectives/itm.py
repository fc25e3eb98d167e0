"""Image-text matching: does the text belong to the image?

Binary classification of the [CLS] output with equal numbers of matched and mismatched
pairs (arXiv 2004.00849, section 3.5), as two-way cross-entropy.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from pixel_bert_jax.config import Model
from pixel_bert_jax.models.heads import MatchHead
from pixel_bert_jax.objectives.base import Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.ops.losses import cross_entropy, weighted_sum


@dataclasses.dataclass(frozen=True)
class ImageTextMatching(Objective):
    """ITM, by default on MLM's view, so that one forward pass serves both.

    Attributes:
      view: "swapped", pairs without masks, or "swapped_masked".
    """

    view: str = "swapped_masked"
    name = "itm"
    views = ("swapped", "swapped_masked")

    def head(self, model: Model, text: TextSpec) -> nn.Module:
        """Returns a linear classifier."""
        del text
        return MatchHead(model.init_std)

    def loss(self, inputs: Inputs) -> Loss:
        """Sums the cross-entropy over real pairs."""
        view = inputs.view
        labels = view.match.reshape(-1).astype(jnp.int32)
        mask = view.mask.reshape(-1)
        logits = inputs.heads["itm"](inputs.passes["fused"].pooled)
        loss, count = weighted_sum(cross_entropy(logits, labels), mask)
        hits = weighted_sum(jnp.argmax(logits, axis=-1) == labels, mask)
        unpaired = weighted_sum(view.unpaired.reshape(-1), mask)
        metrics = {"accuracy": hits, "without_partner": unpaired}
        return Loss(loss, count, metrics)
