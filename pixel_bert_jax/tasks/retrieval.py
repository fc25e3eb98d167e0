"""Image-text retrieval: how well does any text match any image? (section 4.3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.front_ends import VisualTokens
from pixel_bert_jax.objectives.base import TextSpec
from pixel_bert_jax.ops.losses import log_odds_of_any
from pixel_bert_jax.tasks.objective_task import ObjectiveTask
from pixel_bert_jax.types import Batch, Params


class Retrieval(ObjectiveTask):
    """Scores pairs; the CNN's part is apart, so that it is done once an image."""

    predictions = ("pixels", "score", "words")

    def __init__(self, config: Mapping[str, Any], text: TextSpec) -> None:
        """Builds model, objectives and views from the whole run's config."""
        super().__init__(config, text)
        if "image_words" not in self.heads:
            del self.predict["words"]

    def pixels(self, variables: Params, batch: Batch) -> dict[str, Array]:
        """Returns the visual tokens of images, to be given to the other functions.

        Args:
          variables: parameters and running statistics.
          batch: with prepared images [G, 1, H, W, 3].

        Returns:
          features: [G, P, D]; pixel_mask: [G, P] bool.
        """
        core, _ = self.bind(variables)
        visual = self.model.apply(
            core, batch["image"], batch["image_size"], method="encode_images"
        )
        return {"features": visual.features[:, 0], "pixel_mask": visual.mask[:, 0]}

    def score(self, variables: Params, batch: Batch) -> dict[str, Array]:
        """Returns how well texts match images.

        Args:
          variables: parameters and running statistics.
          batch: features and pixel_mask of G images, text_ids and text_mask [G, K, L].

        Returns:
          score: [G, K] float32, higher is better.
        """
        core, heads = self.bind(variables)
        features, mask = batch["features"][:, None], batch["pixel_mask"][:, None]
        index = jnp.broadcast_to(
            jnp.arange(mask.shape[-1], dtype=jnp.int32), mask.shape
        )
        visual = VisualTokens(features, mask, index, (1, mask.shape[-1]))
        encoded = self.model.apply(
            core, batch["text_ids"], batch["text_mask"], visual, method="fuse"
        )
        shape = batch["text_ids"].shape[:2]
        return {"score": heads["retrieval"](encoded.pooled).reshape(shape)}

    def words(self, variables: Params, batch: Batch) -> dict[str, Array]:
        """Returns which words images show, by the objective `image_words`.

        Args:
          variables: parameters and running statistics.
          batch: features and pixel_mask of G images.

        Returns:
          log_odds: [G, V] float32 that an image shows a word.
        """
        _, heads = self.bind(variables)
        logits = heads["image_words"](batch["features"], heads["word_embedding"]())
        mask = batch["pixel_mask"][..., None]
        return {"log_odds": log_odds_of_any(logits, mask, axis=1)}
