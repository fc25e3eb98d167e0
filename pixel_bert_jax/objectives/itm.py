"""Image-text matching: does the text belong to the image?

Binary classification of the [CLS] output with equal numbers of matched and mismatched
pairs (arXiv 2004.00849, section 3.5), as two-way cross-entropy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.heads import MatchHead
from pixel_bert_jax.models.pixel_bert import Encoded
from pixel_bert_jax.objectives.base import Heads, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.losses import cross_entropy, weighted_sum
from pixel_bert_jax.types import Sums


@dataclasses.dataclass(frozen=True)
class ImageTextMatching:
    """ITM on swapped and masked pairs.

    Attributes:
      weight: multiplier of the loss.
    """

    weight: float
    name: str = "itm"
    view: str = "swapped_masked"
    reads: str = "fused"

    def head(self, model: Mapping[str, Any], text: TextSpec) -> nn.Module:
        """Returns a linear classifier."""
        del text
        return MatchHead(model["init_std"])

    def head_inputs(self, features: int, text: TextSpec) -> tuple[tuple[int, ...], ...]:
        """Returns the shape of pooled outputs."""
        del text
        return ((1, features),)

    def count(self, view: View) -> Array:
        """Returns the number of real pairs."""
        return jnp.sum(view.mask.astype(jnp.float32))

    def loss(self, heads: Heads, encoded: Encoded, view: View) -> tuple[Array, Sums]:
        """Sums the cross-entropy over real pairs."""
        labels = view.match.reshape(-1).astype(jnp.int32)
        mask = view.mask.reshape(-1)
        logits = heads["itm"](encoded.pooled)
        loss, count = weighted_sum(cross_entropy(logits, labels), mask)
        hits = weighted_sum(jnp.argmax(logits, axis=-1) == labels, mask)
        unpaired = weighted_sum(view.unpaired.reshape(-1), mask)
        return loss, {
            "itm/loss": (loss, count),
            "itm/accuracy": hits,
            "itm/without_partner": unpaired,
        }
