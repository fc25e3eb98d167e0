"""Natural language for visual reasoning over two images (section 4.3.2)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.objectives.truth import joined
from pixel_bert_jax.tasks.task import Task
from pixel_bert_jax.types import Batch, Params


def judge(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Judges statements about pairs of images with all their pixels.

    Args:
      task: with the objective `truth`.
      variables: parameters and running statistics.
      batch: with prepared images [G, 2, H, W, 3].

    Returns:
      log_odds: [G, K] float32 of true against false.
    """
    encoded, heads = task.encode(variables, batch)
    logits = heads["truth"](joined(encoded.pooled, batch["text_ids"].shape[:2]))
    return {"log_odds": (logits[..., 1] - logits[..., 0]).astype(jnp.float32)}
