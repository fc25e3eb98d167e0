"""Contrast: images and texts that are encoded apart find each other in the batch.

The same transformer reads pixels without words and words without pixels, so that all
pairs of a large collection can be compared without running it on every pair. Each text
has to find its image among all images of the global batch, and each image each of its
texts among the texts of all others (InfoNCE, van den Oord et al., arXiv 1807.03748;
both ways as in CLIP, arXiv 2103.00020, section 2.3). Texts of one image are never each
other's negatives. Pixel-BERT has no such objective.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import logsumexp

from pixel_bert_jax.config import Model
from pixel_bert_jax.models.heads import ContrastHead
from pixel_bert_jax.objectives.base import Inputs, Loss, Objective, TextSpec
from pixel_bert_jax.ops.losses import weighted_sum
from pixel_bert_jax.ops.similarity import NOWHERE, SIMILARITIES
from pixel_bert_jax.types import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Contrast(Objective):
    """InfoNCE both ways over the global batch.

    Attributes:
      similarity: key of `ops.similarity.SIMILARITIES`.
    """

    similarity: str = "max_mean"
    name = "contrast"
    needs = ("text_alone", "pixels_alone")
    whole_batch = True

    def __post_init__(self) -> None:
        """Checks the similarity.

        Raises:
          InputError: there is none of this name.
        """
        if self.similarity not in SIMILARITIES:
            raise InputError(
                f"objectives.contrast.similarity is {self.similarity!r}"
                f"{nearest(self.similarity, SIMILARITIES)}; valid: "
                f"{', '.join(SIMILARITIES)}"
            )

    def head(self, model: Model, text: TextSpec) -> nn.Module:
        """Returns the projections of pixels and words, and the temperature."""
        del text
        return ContrastHead(model.features, jnp.dtype(model.dtype))

    def loss(self, inputs: Inputs) -> Loss:
        """Sums the cross-entropy over texts, the mean of both ways."""
        view, passes = inputs.view, inputs.passes
        images, texts, scale = inputs.heads["contrast"](
            passes["pixels_alone"], passes["text_alone"]
        )
        # Left to itself, the compiler would move pixels instead of words.
        texts = jax.tree.map(inputs.share, texts)
        logits = SIMILARITIES[self.similarity](images, texts) * scale  # [G, G K]
        shown, real = view.image_id[:, 0], view.mask.reshape(-1)
        owners = jnp.where(real, jnp.repeat(shown, view.mask.shape[1]), -1)
        to_image, to_text, found = info_nce(logits, shown, owners)
        total, count = weighted_sum((to_image + to_text) / 2, real)
        return Loss(total, count, {"accuracy": weighted_sum(found, real)})


def info_nce(
    logits: Array, image_id: Array, text_image_id: Array
) -> tuple[Array, Array, Array]:
    """Cross-entropy of each text with its image, and of its image with the text.

    Args:
      logits: [G, G K], of image g and text t; texts are ordered (g, k).
      image_id: [G] int, equal for the same image, negative for padding.
      text_image_id: [G K] int, id of each text's image, negative for padding.

    Returns:
      [G K] cross-entropy of the own image among it and all other images; [G K] that of
      the text among it and all texts of other images; [G K] bool, whether the own image
      is the first. What they are for padding has no meaning.
    """
    texts = jnp.arange(len(text_image_id))
    image = texts // (len(texts) // len(image_id))
    other = image_id[:, None] != text_image_id
    other &= (image_id[:, None] >= 0) & (text_image_id >= 0)
    foreign = jnp.where(other, logits, NOWHERE)
    own = logits[image, texts]
    to_image = jnp.logaddexp(own, logsumexp(foreign, axis=0)) - own
    to_text = jnp.logaddexp(own, logsumexp(foreign, axis=1)[image]) - own
    return to_image, to_text, own > jnp.max(foreign, axis=0)
