"""Pre-training: masked language modelling and image-text matching over pixels.

arXiv 2004.00849, section 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.front_ends import VisualTokens
from pixel_bert_jax.objectives.base import TextSpec
from pixel_bert_jax.objectives.mlm import masked_word_logits
from pixel_bert_jax.objectives.views import VIEWS, with_masks
from pixel_bert_jax.ops import keys as example_keys
from pixel_bert_jax.tasks.objective_task import ObjectiveTask
from pixel_bert_jax.types import Batch, Params


class Pretrain(ObjectiveTask):
    """The pre-training task; it predicts held-out words and matches."""

    predictions = ("probe",)

    def __init__(self, config: Mapping[str, Any], text: TextSpec) -> None:
        """Builds model, objectives and views from the whole run's config."""
        super().__init__(config, text)
        self.eval_seed = config["eval"]["seed"]

    def probe(self, variables: Params, batch: Batch) -> dict[str, Array]:
        """Predicts masked words and matches with the own, no, and another image.

        "Blanked" sees no visual token at all; "other" sees the picture of another
        example. Masks are fixed by (eval seed, example) and depend on nothing else.

        Args:
          variables: parameters and running statistics.
          batch: of an evaluation plan, with prepared images [G, 1, H, W, 3].

        Returns:
          labels, positions, weights, and words_{own,blanked,other} [G, K, m]: the
          original and the predicted ids of masked tokens;
          match_{own,blanked,other} [G, K, 2] float32: log-odds of a match for the true
          text and for the negative one.
        """
        core, heads = self.bind(variables)

        def encode(prefix: str) -> VisualTokens:
            return self.model.apply(
                core,
                batch[f"{prefix}image"],
                batch[f"{prefix}image_size"],
                method="encode_images",
            )

        own = encode("")
        images = {
            "own": own,
            "blanked": own.replace(
                features=own.features[:, :, :0],
                mask=own.mask[:, :, :0],
                index=own.index[:, :, :0],
            ),
            "other": encode("other_"),
        }
        view = VIEWS["clean"](batch, jax.random.key(0), jnp.zeros(()), self.settings)
        mask_key = example_keys.tagged(
            jax.random.key(self.eval_seed), example_keys.MASK
        )
        view = with_masks(
            view,
            mask_key,
            batch["example_uid"],
            self.settings,
            self.settings.mask_probability,
        )
        masked = view.masked
        shape = masked.positions.shape

        def words(visual: VisualTokens) -> Array:
            encoded = self.model.apply(
                core, view.text_ids, view.text_mask, visual, method="fuse"
            )
            logits = masked_word_logits(
                heads, encoded.text, masked.positions.reshape(-1, shape[-1])
            )
            return jnp.argmax(logits, axis=-1).reshape(shape).astype(jnp.int32)

        def match(visual: VisualTokens, ids: str, mask: str) -> Array:
            encoded = self.model.apply(
                core, batch[ids], batch[mask], visual, method="fuse"
            )
            logits = heads["itm"](encoded.pooled)
            return (logits[:, 1] - logits[:, 0]).reshape(shape[:2])

        out = {
            "labels": masked.labels,
            "positions": masked.positions,
            "weights": masked.weights,
        }
        for name, visual in images.items():
            if "mlm" in self.heads:
                out[f"words_{name}"] = words(visual)
            if "itm" in self.heads:
                true = match(visual, "text_ids", "text_mask")
                false = match(visual, "negative_ids", "negative_mask")
                out[f"match_{name}"] = jnp.stack([true, false], axis=-1)
        return out
