"""Visual question answering (arXiv 2004.00849, section 4.3.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.tasks.task import Task
from pixel_bert_jax.types import Batch, Params


def answer(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Answers questions about images, with all pixels of these.

    Args:
      task: a task with the objective `answers`.
      variables: parameters and running statistics.
      batch: a batch with prepared images [G, 1, H, W, 3].

    Returns:
      answer: [G, K] int32, class of each question's best answer.
      confidence: [G, K] float32, its probability.
    """
    logits = answer_odds(task, variables, batch)["log_odds"]
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return {"answer": best, "confidence": jax.nn.sigmoid(jnp.max(logits, axis=-1))}


def answer_odds(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Scores all answers; see `answer`.

    Returns:
      log_odds: [G, K, A] float32 that each answer is right.
    """
    encoded, heads = task.encode(variables, batch)
    logits = heads["answers"](encoded.pooled).astype(jnp.float32)
    return {"log_odds": logits.reshape(*batch["text_ids"].shape[:2], -1)}
