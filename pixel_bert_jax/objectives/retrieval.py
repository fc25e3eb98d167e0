"""Retrieval: which of 1 + N texts belongs to the image?

A linear layer scores the [CLS] output of every pair; softmax over the image's own text
and the hardest of N texts of other images, so that the gradient passes through these
alone (arXiv 2004.00849, section 4.3.3: N = 20, the 5 hardest).
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.config import Model
from pixel_bert_jax.models.heads import ScoreHead
from pixel_bert_jax.objectives.base import Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.losses import cross_entropy, weighted_sum
from pixel_bert_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Retrieval(Objective):
    """Cross-entropy of the own text against the highest-scoring others.

    Attributes:
      negatives: N; the plan draws them.
      hardest: how many of them, those of highest score, enter the softmax; 0 or N: all.
    """

    negatives: int = 20
    hardest: int = 5
    name = "retrieval"
    # A new score starts as the row of ITM's classifier that means "the pair matches",
    # as UNITER's does.
    inherits = MappingProxyType(
        {
            f"score/{name}": (f"itm/classifier/{name}", lambda x: x[..., 1:])
            for name in ("kernel", "bias")
        }
    )

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          InputError: no negative at all, or more hard ones than there are.
        """
        if self.negatives < 1:
            raise InputError(
                f"objectives.retrieval.negatives is {self.negatives}, expected at "
                "least 1"
            )
        if not 0 <= self.hardest <= self.negatives:
            raise InputError(
                f"objectives.retrieval.hardest is {self.hardest}, expected 0 (all) to "
                f"{self.negatives}, the number of negatives"
            )

    def head(self, model: Model, text: TextSpec) -> nn.Module:
        """Returns a linear layer with one output."""
        del text
        return ScoreHead(model.init_std)

    def count(self, view: View) -> Array:
        """Returns the number of own texts."""
        return jnp.sum((view.mask & view.match).astype(jnp.float32))

    def loss(self, inputs: Inputs) -> Loss:
        """Sums the cross-entropy over own texts."""
        scores = inputs.heads["retrieval"](inputs.passes["fused"].pooled)
        scores = scores.reshape(-1, 1 + self.negatives)
        # An empty slot has only empty ones behind it.
        real = inputs.view.mask.reshape(scores.shape)[:, 0]
        own, others = scores[:, :1], scores[:, 1:]
        hard, _ = jax.lax.top_k(others, self.hardest or self.negatives)
        logits = jnp.concatenate([own, hard], axis=1)
        labels = jnp.zeros(len(logits), jnp.int32)
        loss, count = weighted_sum(cross_entropy(logits, labels), real)
        # What is as good as the own text counts against it.
        first = weighted_sum(jnp.all(own > others, axis=1), real)
        return Loss(loss, count, {"accuracy": first})
