"""VQA's objective: which answer does a question have, given its image?

The [CLS] output goes through an MLP, trained with binary cross-entropy against soft
targets (arXiv 2004.00849, section 3.5); the loss is summed over the answers and
averaged over questions, as the code of SOHO and others does.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import optax

from pixel_bert_jax.config import Model
from pixel_bert_jax.data.targets import AnswerTargets
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.models.heads import MultilayerHead
from pixel_bert_jax.objectives.base import Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.ops.losses import at_least_float32, weighted_sum
from pixel_bert_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Answers(Objective):
    """Soft binary cross-entropy over the answer vocabulary.

    Attributes:
      hidden: width of the MLP as a multiple of D; 0 is a linear classifier.
    """

    hidden: int = 2
    name = "answers"
    asks = True

    def head(self, model: Model, text: TextSpec) -> nn.Module:
        """Returns the MLP.

        Raises:
          InputError: there is no answer vocabulary.
        """
        if not text.answers:
            raise InputError(
                "objectives.answers needs answers: see config.data.answers"
            )
        return MultilayerHead(
            text.answers, self.hidden * model.features, model.init_std
        )

    def targets(self, answers: AnswerVocabulary | None) -> AnswerTargets:
        """Returns the soft scores of the answers."""
        return AnswerTargets(answers)

    def loss(self, inputs: Inputs) -> Loss:
        """Sums the loss over questions; reports the soft score of the best answer."""
        mask = inputs.view.mask.reshape(-1)
        scores = inputs.view.targets["answer_scores"]
        scores = at_least_float32(scores.reshape(-1, scores.shape[-1]))
        logits = inputs.heads["answers"](inputs.passes["fused"].pooled)
        losses = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, scores), axis=-1)
        loss, count = weighted_sum(losses, mask)
        best = jnp.argmax(logits, axis=-1)[:, None]
        score = jnp.take_along_axis(scores, best, axis=-1)[:, 0]
        return Loss(loss, count, {"score": weighted_sum(score, mask)})
