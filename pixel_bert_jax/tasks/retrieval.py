"""Image-text retrieval: how well does any text match any image? (section 4.3.3).

The CNN is a predict function of its own, so that it runs once per image.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.front_ends import VisualTokens
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.ops.losses import log_odds_of_any
from pixel_bert_jax.ops.similarity import Tokens
from pixel_bert_jax.tasks.task import Task
from pixel_bert_jax.types import Batch, Params

FUSED = ("retrieval", "itm")  # objectives whose heads score a pair, best first
CONTRAST = "contrast"  # objective whose vectors are compared


def pixels(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Returns the visual tokens of images, which the other functions take.

    Args:
      task: a task, whose model is used.
      variables: parameters and running statistics.
      batch: a batch with prepared images [G, 1, H, W, 3].

    Returns:
      features: [G, P, D].
      pixel_mask: [G, P] bool.
    """
    visual = task.visual(variables, batch)
    return {"features": visual.features[:, 0], "pixel_mask": visual.mask[:, 0]}


def score(
    task: Task, variables: Params, batch: Batch, *, head: str
) -> dict[str, Array]:
    """Returns how well texts match images.

    Args:
      task: a task with the objective `head`.
      variables: parameters and running statistics.
      batch: features and pixel_mask of G images, text_ids and text_mask [G, K, L].
      head: one of FUSED; ITM scores by its log-odds.

    Returns:
      score: [G, K] float32, higher is better.
    """
    encoded = task.model.apply(
        variables,
        batch["text_ids"],
        batch["text_mask"],
        _visual(batch),
        method=PixelBert.fuse,
    )
    scores = task.bind(variables)[head](encoded.pooled)
    if head == "itm":
        scores = scores[:, 1] - scores[:, 0]
    return {"score": scores.reshape(batch["text_ids"].shape[:2])}


def match(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Returns whether texts match the images of their groups, by the objective `itm`.

    Args:
      task: a task with that objective.
      variables: parameters and running statistics.
      batch: a batch with prepared images [G, 1, H, W, 3].

    Returns:
      log_odds: [G, K] float32 of a match.
    """
    visual = pixels(task, variables, batch)
    texts = {name: batch[name] for name in ("text_ids", "text_mask")}
    return {"log_odds": score(task, variables, visual | texts, head="itm")["score"]}


def words(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Returns which words images show, by the objective `image_words`.

    Args:
      task: a task with that objective.
      variables: parameters and running statistics.
      batch: features and pixel_mask of G images.

    Returns:
      log_odds: [G, V] float32 that an image shows a word.
    """
    heads = task.bind(variables)
    logits = heads["image_words"](batch["features"], heads.word_embedding)
    mask = batch["pixel_mask"][..., None]
    return {"log_odds": log_odds_of_any(logits, mask, axis=1)}


def image_vectors(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Returns what the objective `contrast` compares with texts.

    Args:
      task: a task with that objective.
      variables: parameters and running statistics.
      batch: features and pixel_mask of G images.

    Returns:
      vectors: [G, P, D] float32, unit vectors of the pixels.
      mask: [G, P] bool.
    """
    method = PixelBert.encode_pixels
    pixels = task.model.apply(variables, _visual(batch), method=method)
    images, _, _ = task.bind(variables)[CONTRAST](pixels, None)
    return _arrays(images)


def text_vectors(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Returns what the objective `contrast` compares with images.

    Args:
      task: a task with that objective.
      variables: parameters and running statistics.
      batch: text_ids and text_mask [T, 1, L].

    Returns:
      vectors: [T, L, D] float32, unit vectors of the words.
      mask: [T, L] bool.
    """
    words = task.model.apply(
        variables, batch["text_ids"], batch["text_mask"], method=PixelBert.encode_texts
    )
    _, texts, _ = task.bind(variables)[CONTRAST](None, words)
    return _arrays(texts)


def _visual(batch: Batch) -> VisualTokens:
    """Returns the visual tokens that `pixels` returned."""
    features, mask = batch["features"][:, None], batch["pixel_mask"][:, None]
    index = jnp.broadcast_to(jnp.arange(mask.shape[-1], dtype=jnp.int32), mask.shape)
    return VisualTokens(features, mask, index, (1, mask.shape[-1]))


def _arrays(tokens: Tokens) -> dict[str, Array]:
    return {"vectors": tokens.vectors, "mask": tokens.mask}
