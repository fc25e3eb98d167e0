"""Visual question answering (arXiv 2004.00849, section 4.3.1)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.tasks.objective_task import ObjectiveTask
from pixel_bert_jax.types import Batch, Params


class Vqa(ObjectiveTask):
    """Answers questions about images with all their pixels."""

    predictions = ("answer",)

    def answer(self, variables: Params, batch: Batch) -> dict[str, Array]:
        """Returns each question's best answer.

        Args:
          variables: parameters and running statistics.
          batch: with prepared images [G, 1, H, W, 3].

        Returns:
          answer: [G, K] int32, its class; confidence: [G, K] float32, its probability.
        """
        encoded, heads = self.encode(variables, batch)
        logits = heads["answers"](encoded.pooled).reshape(
            *batch["text_ids"].shape[:2], -1
        )
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        top = jnp.max(logits, axis=-1).astype(jnp.float32)
        return {"answer": best, "confidence": 1 / (1 + jnp.exp(-top))}
