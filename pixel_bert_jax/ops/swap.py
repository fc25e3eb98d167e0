"""Mismatched pairs for image-text matching, made inside the global batch.

A selected text slot takes the text of its partner: a slot of the same corpus with
another image. Partners are found by sorting, so they depend on the examples themselves
and not on their positions in the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def partners(
    bits: Array, image_id: Array, corpus: Array, example_id: Array, real: Array
) -> tuple[Array, Array]:
    """Finds for every text slot a slot of the same corpus with another image.

    Within a corpus the n slots that are not empty are ordered by (bits, image_id,
    example_id); with m the largest number of slots of one image, the partner of rank i
    is rank (i + m) mod n, which has another image whenever n >= 2m.

    Args:
      bits: [N] uint32, random bits that are equal for slots of one image.
      image_id: [N] int32, the image of each slot.
      corpus: [N] int32.
      example_id: [N, 2] uint32 example ids.
      real: [N] bool, False for empty slots, which neither have nor are partners.

    Returns:
      partner: [N] int32, index of a slot (its own if there is no partner).
      found: [N] bool, False for empty slots, and if the partner would have the same
        image.
    """
    slots = image_id.shape[0]
    place = jnp.arange(slots, dtype=jnp.int32)
    order = jnp.lexsort(
        (example_id[:, 1], example_id[:, 0], image_id, bits, corpus, ~real)
    )
    corpus, image, bits, real = corpus[order], image_id[order], bits[order], real[order]

    def starts(*columns: Array) -> Array:
        changed = jnp.zeros((slots,), bool).at[0].set(True)
        for column in columns:
            changed = changed | jnp.concatenate(
                [jnp.ones((1,), bool), column[1:] != column[:-1]]
            )
        return changed

    # Number the runs of one corpus and, inside them, those of one image, from 0.
    corpus_run = jnp.cumsum(starts(real, corpus)) - 1
    picture_run = jnp.cumsum(starts(real, corpus, bits, image)) - 1

    def count(run: Array) -> Array:
        return jax.ops.segment_sum(jnp.ones_like(run), run, num_segments=slots)[run]

    first = jax.ops.segment_min(place, corpus_run, num_segments=slots)[corpus_run]
    number = count(corpus_run)
    largest = jax.ops.segment_max(count(picture_run), corpus_run, num_segments=slots)[
        corpus_run
    ]
    # Rotate each corpus by its largest image: no image can reach its own slots again.
    target = first + (place - first + largest) % number
    found = real & (image[target] != image)
    partner = jnp.where(found, order[target], order).astype(jnp.int32)
    unsort = jnp.argsort(order)
    return partner[unsort], found[unsort]
