"""Views: named, pure corruptions of a batch, made once for the whole global batch.

Objectives name the view they read. The CNN runs once per image of a step and the fusion
transformer once per distinct view, so objectives that share a view share its forward
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from pixel_bert_jax.data.fields import EVALUATION_FIELDS, FIELDS
from pixel_bert_jax.ops import keys as example_keys
from pixel_bert_jax.ops.masking import MaskedText, Vocabulary, mask_tokens
from pixel_bert_jax.ops.swap import partners
from pixel_bert_jax.types import Batch

KNOWN = {**FIELDS, **EVALUATION_FIELDS}  # other fields of a batch are targets
SWAP_PROBABILITY = 0.5  # equal numbers of matched and mismatched pairs (section 3.5)


class ViewSettings(NamedTuple):
    """What the views need besides the batch."""

    vocabulary: Vocabulary
    mask_probability: float
    mask_slots: int
    whole_words: bool
    # At the start of a run more words may be masked: see `probability_at`.
    warmup_probability: float
    warmup_steps: int
    # Texts of other images behind each text of a batch; see `data/plan/negatives.py`.
    negatives: int = 0


def probability_at(step: Array, settings: ViewSettings) -> Array:
    """Returns the share of words that are masked at a step of training.

    For the first `warmup_steps` it is `warmup_probability`. The fewer words are
    visible, the more a prediction has to rely on the image; whether that is why small
    models that start from scratch profit is open (docs/history.md).
    """
    early = jnp.float32(settings.warmup_probability)
    late = jnp.float32(settings.mask_probability)
    return jnp.where(step < settings.warmup_steps, early, late)


@struct.dataclass
class View:
    """A corrupted batch; G groups, K texts, L tokens, m prediction slots."""

    text_ids: Array  # [G, K, L] int32
    text_mask: Array  # [G, K, L] bool
    image_id: Array  # [G, M] int32, equal for the same image; -1 for padding
    match: Array  # [G, K] bool, True if the text belongs to the image
    mask: Array  # [G, K] bool, False for empty slots
    unpaired: Array  # [G, K] bool, selected for a swap, but without a partner
    masked: MaskedText | None  # leaves [G, K, m]
    # Targets of the texts, by field of the batch; [G, K, ...].
    targets: dict[str, Array] = struct.field(default_factory=dict)


def clean(batch: Batch, key: Array, step: Array, settings: ViewSettings) -> View:
    """The uncorrupted batch, which all fine-tuning reads."""
    del key, step
    mask = batch["example_mask"]
    own = jnp.arange(mask.shape[1]) % (1 + settings.negatives) == 0
    return View(
        text_ids=batch["text_ids"],
        text_mask=batch["text_mask"],
        image_id=batch["image_id"],
        match=jnp.broadcast_to(own, mask.shape),
        mask=mask,
        unpaired=jnp.zeros_like(mask),
        masked=None,
        targets={name: x for name, x in batch.items() if name not in KNOWN},
    )


def with_masks(
    view: View,
    mask_key: Array,
    example_id: Array,
    settings: ViewSettings,
    probability: Array | float,
) -> View:
    """Masks tokens of a view's texts.

    Args:
      view: view to mask.
      mask_key: result of `ops.keys.tagged`.
      example_id: [G, K, 2] of the slots; a swapped text is masked by the draws of the
        slot that received it.
      settings: prediction slots and the vocabulary.
      probability: probability of masking a token.
    """
    lead = view.text_ids.shape[:2]
    masked = mask_tokens(
        example_keys.per_example(mask_key, example_id).reshape(-1),
        view.text_ids.reshape(-1, view.text_ids.shape[-1]),
        view.text_mask.reshape(-1, view.text_mask.shape[-1]),
        settings.vocabulary,
        probability=probability,
        slots=settings.mask_slots,
        whole_words=settings.whole_words,
    )
    masked = jax.tree.map(lambda x: x.reshape(*lead, x.shape[-1]), masked)
    masked = masked._replace(weights=masked.weights & view.mask[..., None])
    return view.replace(text_ids=masked.ids, masked=masked)


def masked(batch: Batch, key: Array, step: Array, settings: ViewSettings) -> View:
    """Matched pairs with masked tokens."""
    return _masked_at(clean(batch, key, step, settings), batch, key, step, settings)


def _masked_at(
    view: View, batch: Batch, key: Array, step: Array, settings: ViewSettings
) -> View:
    mask_key = example_keys.tagged(key, example_keys.MASK, step)
    example_id, probability = batch["example_id"], probability_at(step, settings)
    return with_masks(view, mask_key, example_id, settings, probability)


def swapped(batch: Batch, key: Array, step: Array, settings: ViewSettings) -> View:
    """Half the texts swapped for those of other images."""
    view = clean(batch, key, step, settings)
    example_id, real = batch["example_id"], batch["example_mask"]
    groups, texts = real.shape
    swap_key = example_keys.tagged(key, example_keys.SWAP, step)

    def flat(x: Array) -> Array:
        return x.reshape(groups * texts, *x.shape[2:])

    draws = jax.vmap(jax.random.uniform)(
        flat(example_keys.per_example(swap_key, example_id))
    )
    image_id = flat(jnp.broadcast_to(batch["image_id"][:, :1], (groups, texts)))
    corpus = flat(jnp.broadcast_to(batch["corpus"][:, None], (groups, texts)))
    # Random bits per image, so that partners change from step to step.
    bits = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(swap_key, i)))(
        image_id.astype(jnp.uint32)
    )
    partner, found = partners(bits, image_id, corpus, flat(example_id), flat(real))
    selected = (draws < SWAP_PROBABILITY) & flat(real)
    swapped = selected & found
    # Texts move between slots; example ids, images and masks of slots stay.
    source = jnp.where(swapped, partner, jnp.arange(groups * texts))
    return view.replace(
        text_ids=flat(view.text_ids)[source].reshape(view.text_ids.shape),
        text_mask=flat(view.text_mask)[source].reshape(view.text_mask.shape),
        match=~swapped.reshape(groups, texts),
        unpaired=(selected & ~found).reshape(groups, texts),
    )


def swapped_masked(
    batch: Batch, key: Array, step: Array, settings: ViewSettings
) -> View:
    """Half the texts swapped as in `swapped`, then tokens masked."""
    return _masked_at(swapped(batch, key, step, settings), batch, key, step, settings)


VIEWS: dict[str, Callable[[Batch, Array, Array, ViewSettings], View]] = {
    "clean": clean,
    "masked": masked,
    "swapped": swapped,
    "swapped_masked": swapped_masked,
}
