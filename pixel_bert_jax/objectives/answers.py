"""VQA's objective: which answer does a question have, given its image?

The [CLS] output goes through an MLP, trained with binary cross-entropy against soft
targets (arXiv 2004.00849, section 3.5); the loss is summed over the answers and
averaged over questions, as the code of SOHO and others does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.heads import MultilayerHead
from pixel_bert_jax.models.pixel_bert import Encoded
from pixel_bert_jax.objectives.base import Heads, TextSpec
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.losses import at_least_float32, weighted_sum
from pixel_bert_jax.types import InputError, Sums


@dataclasses.dataclass(frozen=True)
class Answers:
    """Soft binary cross-entropy over the answer vocabulary.

    Attributes:
      weight: multiplier of the loss.
      hidden: width of the MLP as a multiple of D; 0 is a linear classifier.
    """

    weight: float
    hidden: int = 2
    name: str = "answers"
    view: str = "clean"
    reads: str = "fused"

    def head(self, model: Mapping[str, Any], text: TextSpec) -> nn.Module:
        """Returns the MLP.

        Raises:
          InputError: there is no answer vocabulary.
        """
        if not text.answers:
            raise InputError(
                "objectives.answers needs answers: see config.data.answers"
            )
        return MultilayerHead(
            text.answers, self.hidden * model["features"], model["init_std"]
        )

    def head_inputs(self, features: int, text: TextSpec) -> tuple[tuple[int, ...], ...]:
        """Returns the shape of pooled outputs."""
        del text
        return ((1, features),)

    def count(self, view: View) -> Array:
        """Returns the number of questions."""
        return jnp.sum(view.mask.astype(jnp.float32))

    def loss(self, heads: Heads, encoded: Encoded, view: View) -> tuple[Array, Sums]:
        """Sums the loss over questions; reports the soft score of the best answer."""
        mask = view.mask.reshape(-1)
        scores = view.targets["answer_scores"]
        scores = at_least_float32(scores.reshape(-1, scores.shape[-1]))
        logits = heads["answers"](encoded.pooled)
        # -(s log sigmoid(x) + (1 - s) log sigmoid(-x)) = softplus(x) - s x
        losses = jnp.sum(jax.nn.softplus(logits) - scores * logits, axis=-1)
        loss, count = weighted_sum(losses, mask)
        best = jnp.argmax(logits, axis=-1)[:, None]
        score = jnp.take_along_axis(scores, best, axis=-1)[:, 0]
        return loss, {
            "answers/loss": (loss, count),
            "answers/score": weighted_sum(score, mask),
        }
