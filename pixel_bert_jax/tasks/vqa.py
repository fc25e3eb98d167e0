"""Visual question answering (arXiv 2004.00849, section 4.3.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.tasks.task import Task
from pixel_bert_jax.types import Batch, Params


def answer(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Answers questions about images with all their pixels.

    Args:
      task: with the objective `answers`.
      variables: parameters and running statistics.
      batch: with prepared images [G, 1, H, W, 3].

    Returns:
      answer: [G, K] int32, the class of each question's best answer; confidence:
      [G, K] float32, its probability.
    """
    encoded, heads = task.encode(variables, batch)
    logits = heads["answers"](encoded.pooled)
    logits = logits.reshape(*batch["text_ids"].shape[:2], -1)
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    top = jnp.max(logits, axis=-1).astype(jnp.float32)
    return {"answer": best, "confidence": jax.nn.sigmoid(top)}
