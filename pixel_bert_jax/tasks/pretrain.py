"""Pre-training: predictions of held-out words and matches, and what pixels add.

The tasks are those of arXiv 2004.00849, section 3.5; the paper reports no such metrics.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.front_ends import VisualTokens
from pixel_bert_jax.models.pixel_bert import Encoded, PixelBert
from pixel_bert_jax.objectives.mlm import masked_word_logits
from pixel_bert_jax.objectives.views import VIEWS, with_masks
from pixel_bert_jax.ops import keys as example_keys
from pixel_bert_jax.tasks.task import Task
from pixel_bert_jax.types import Batch, Params


def probe(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Predicts masked words and matches, from the own, no, and another image.

    "Blanked" sees no visual token at all; "other" sees the image of another example.
    Masks depend on the evaluation seed and the example id, and on nothing else.

    Args:
      task: a task with the objectives `mlm`, `itm` or both.
      variables: parameters and running statistics.
      batch: a batch of an evaluation plan, with prepared images [G, 1, H, W, 3].

    Returns:
      labels, positions, weights, words_{own,blanked,other}: [G, K, m], original and
        predicted ids of masked tokens.
      match_{own,blanked,other}: [G, K, 2] float32, log-odds of a match for the true
        text and for the negative.
    """
    heads, settings = task.bind(variables), task.settings
    mask_key = example_keys.tagged(jax.random.key(task.eval_seed), example_keys.MASK)
    view = with_masks(
        VIEWS["clean"](batch, mask_key, jnp.zeros(()), settings),
        mask_key,
        batch["example_id"],
        settings,
        settings.mask_probability,
    )
    masked = view.masked
    shape = masked.positions.shape

    def fuse(ids: Array, mask: Array, visual: VisualTokens) -> Encoded:
        return task.model.apply(variables, ids, mask, visual, method=PixelBert.fuse)

    def words(visual: VisualTokens) -> Array:
        encoded = fuse(view.text_ids, view.text_mask, visual)
        positions = masked.positions.reshape(-1, shape[-1])
        logits = masked_word_logits(heads, encoded.text, positions)
        return jnp.argmax(logits, axis=-1).reshape(shape).astype(jnp.int32)

    def match(visual: VisualTokens, text: str) -> Array:
        encoded = fuse(batch[f"{text}_ids"], batch[f"{text}_mask"], visual)
        logits = heads["itm"](encoded.pooled)
        return (logits[:, 1] - logits[:, 0]).reshape(shape[:2])

    own = task.visual(variables, batch)
    # No token at all rather than masked ones: the sequence is the text alone.
    nothing = own.replace(
        features=own.features[:, :, :0],
        mask=own.mask[:, :, :0],
        index=own.index[:, :, :0],
    )
    out = {
        "labels": masked.labels,
        "positions": masked.positions,
        "weights": masked.weights,
    }
    images = {
        "own": own,
        "blanked": nothing,
        "other": task.visual(variables, batch, "other_"),
    }
    for name, visual in images.items():
        if "mlm" in task.heads:
            out[f"words_{name}"] = words(visual)
        if "itm" in task.heads:
            both = match(visual, "text"), match(visual, "negative")
            out[f"match_{name}"] = jnp.stack(both, axis=-1)
    return out


def fill(task: Task, variables: Params, batch: Batch) -> dict[str, Array]:
    """Predicts the tokens at some positions of texts about images, with all pixels.

    Args:
      task: a task with the objective `mlm`.
      variables: parameters and running statistics.
      batch: a batch with prepared images [G, 1, H, W, 3], and `positions` [G, K, m]
        int32 of [MASK] in the texts.

    Returns:
      log_probability: [G, K, m, V] float32 of each token.
    """
    encoded, heads = task.encode(variables, batch)
    shape = batch["positions"].shape
    positions = batch["positions"].reshape(-1, shape[-1])
    logits = masked_word_logits(heads, encoded.text, positions)
    found = jax.nn.log_softmax(logits.astype(jnp.float32))
    return {"log_probability": found.reshape(*shape, -1)}
