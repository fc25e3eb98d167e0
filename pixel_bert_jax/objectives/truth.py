"""NLVR2's objective: is a statement true of its images?

The text passes the transformer once with each image; the [CLS] outputs are joined and
classified, cross-entropy (arXiv 2004.00849, section 3.5, the "pair" way of LXMERT and
UNITER).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.heads import MultilayerHead
from pixel_bert_jax.models.pixel_bert import Encoded
from pixel_bert_jax.objectives.base import Heads, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.losses import cross_entropy, weighted_sum
from pixel_bert_jax.types import Sums

IMAGES = 2


def joined(pooled: Array, shape: tuple[int, int]) -> Array:
    """Maps [CLS] outputs [G M K, D], pairs ordered (g, m, k), to [G, K, M D].

    Args:
      pooled: of `PixelBert.fuse`.
      shape: (G, K).
    """
    groups, texts = shape
    x = pooled.reshape(groups, -1, texts, pooled.shape[-1])
    return jnp.moveaxis(x, 1, 2).reshape(groups, texts, -1)


@dataclasses.dataclass(frozen=True)
class Truth:
    """Cross-entropy of false and true.

    Attributes:
      weight: multiplier of the loss.
      hidden: width of the MLP as a multiple of D (LXMERT: 2); 0 is a linear classifier
        (UNITER).
    """

    weight: float
    hidden: int = 2
    name: str = "truth"
    view: str = "clean"
    reads: str = "fused"

    def head(self, model: Mapping[str, Any], text: TextSpec) -> nn.Module:
        """Returns the classifier."""
        del text
        return MultilayerHead(2, self.hidden * model["features"], model["init_std"])

    def head_inputs(self, features: int, text: TextSpec) -> tuple[tuple[int, ...], ...]:
        """Returns the shape of joined outputs."""
        del text
        return ((1, IMAGES * features),)

    def count(self, view: View) -> Array:
        """Returns the number of statements."""
        return jnp.sum(view.mask.astype(jnp.float32))

    def loss(self, heads: Heads, encoded: Encoded, view: View) -> tuple[Array, Sums]:
        """Sums the cross-entropy over statements."""
        logits = heads["truth"](joined(encoded.pooled, view.mask.shape))
        labels = view.targets["label"]
        loss, count = weighted_sum(cross_entropy(logits, labels), view.mask)
        hits = weighted_sum(jnp.argmax(logits, axis=-1) == labels, view.mask)
        return loss, {"truth/loss": (loss, count), "truth/accuracy": hits}
