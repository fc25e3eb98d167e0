"""NLVR2's objective: is a statement true of its images?

The text passes the transformer once with each image; the [CLS] outputs are joined and
classified, cross-entropy (arXiv 2004.00849, section 3.5, the "pair" way of LXMERT and
UNITER).
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.config import Model
from pixel_bert_jax.data.targets import TruthTargets
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.models.heads import MultilayerHead
from pixel_bert_jax.objectives.base import Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.ops.losses import cross_entropy, weighted_sum


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
class Truth(Objective):
    """Cross-entropy of false and true.

    Attributes:
      hidden: width of the MLP as a multiple of D (LXMERT: 2); 0 is a linear classifier
        (UNITER).
    """

    hidden: int = 2
    name = "truth"
    images = 2

    def head(self, model: Model, text: TextSpec) -> nn.Module:
        """Returns the classifier."""
        del text
        return MultilayerHead(2, self.hidden * model.features, model.init_std)

    def targets(self, answers: AnswerVocabulary | None) -> TruthTargets:
        """Returns the labels."""
        del answers
        return TruthTargets()

    def loss(self, inputs: Inputs) -> Loss:
        """Sums the cross-entropy over statements."""
        view = inputs.view
        pooled = joined(inputs.passes["fused"].pooled, view.mask.shape)
        logits = inputs.heads["truth"](pooled)
        labels = view.targets["label"]
        loss, count = weighted_sum(cross_entropy(logits, labels), view.mask)
        hits = weighted_sum(jnp.argmax(logits, axis=-1) == labels, view.mask)
        return Loss(loss, count, {"accuracy": hits})
