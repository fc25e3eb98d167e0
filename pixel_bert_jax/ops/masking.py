"""Masked language modelling's corruption of token ids (BERT, section 3.1, task 1).

15 % of the tokens are chosen; of these 80 % become [MASK], 10 % a random token and
10 % stay. Special tokens and padding are never chosen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class MaskedText(NamedTuple):
    """Corrupted texts with the positions to predict; B texts, L tokens, m slots."""

    ids: Array  # [B, L] int32, corrupted
    positions: Array  # [B, m] int32, ascending; unused slots point at 0
    labels: Array  # [B, m] int32, the original ids there
    weights: Array  # [B, m] bool, False in unused slots


class Vocabulary(NamedTuple):
    """What masking needs to know of a tokenizer; V words, R possible replacements."""

    special_ids: tuple[int, ...]  # never masked: [PAD], [CLS], [SEP], ...
    mask_id: int
    replacement_ids: Array  # [R] int32, the ids that random replacements come from
    is_continuation: Array  # [V] bool, True for "##" pieces


def max_masked(text_length: int, probability: float = 0.15) -> int:
    """Returns the static number of prediction slots per text: ceil(p L) + 4."""
    return math.ceil(probability * text_length) + 4


def mask_tokens(
    keys: Array,
    ids: Array,
    mask: Array,
    vocabulary: Vocabulary,
    *,
    probability: Array | float = 0.15,
    slots: int,
    whole_words: bool = False,
) -> MaskedText:
    """Chooses tokens and corrupts them.

    Every maskable token is chosen with `probability`, independently. If none of a text
    is, its token with the smallest draw is chosen. At most `slots` are chosen, so that
    no corrupted token lacks a loss. With `whole_words`, all pieces of a word share the
    draw of its first piece.

    Args:
      keys: [B] random keys.
      ids: [B, L] int32.
      mask: [B, L] bool, True for real tokens.
      vocabulary: special ids and possible replacements.
      probability: probability of choosing a token.
      slots: m.
      whole_words: choose words instead of pieces.
    """
    length = ids.shape[-1]
    special = jnp.asarray(vocabulary.special_ids, jnp.int32)

    def one(key: Array, ids: Array, mask: Array) -> MaskedText:
        choose_key, kind_key, replace_key = jax.random.split(key, 3)
        maskable = mask & ~jnp.isin(ids, special)
        draws = jax.random.uniform(choose_key, (length,))
        if whole_words:
            # A piece takes the draw of the last word start at or before it.
            starts = ~jnp.asarray(vocabulary.is_continuation)[ids] | ~maskable
            start = jax.lax.cummax(jnp.where(starts, jnp.arange(length), 0))
            draws = draws[start]
        draws = jnp.where(maskable, draws, 2.0)
        chosen = maskable & ((draws < probability) | (draws == jnp.min(draws)))
        # If more are chosen than there are slots, the smallest draws stay. The pieces
        # of a word tie, so they stay together as far as the slots reach.
        by_draw = jnp.argsort(jnp.where(chosen, draws, 2.0), stable=True)
        rank = jnp.argsort(by_draw, stable=True)
        chosen = chosen & (rank < slots)

        # Below 0.8 [MASK], from 0.9 on a random token, in between the token itself.
        kind = jax.random.uniform(kind_key, (length,))
        pick = jax.random.randint(
            replace_key, (length,), 0, vocabulary.replacement_ids.shape[0]
        )
        random_ids = jnp.asarray(vocabulary.replacement_ids)[pick]
        corrupted = jnp.where(kind < 0.8, vocabulary.mask_id, ids)
        corrupted = jnp.where(kind >= 0.9, random_ids, corrupted)
        corrupted = jnp.where(chosen, corrupted, ids)

        # Chosen positions come first, in ascending order.
        order = jnp.argsort(~chosen, stable=True)[:slots]
        weights = chosen[order]
        positions = jnp.where(weights, order, 0).astype(jnp.int32)
        labels = jnp.where(weights, ids[positions], 0)
        if slots > length:
            pad = slots - length
            positions, labels, weights = (
                jnp.pad(x, (0, pad)) for x in (positions, labels, weights)
            )
        return MaskedText(corrupted, positions, labels, weights)

    return jax.vmap(one)(keys, ids, mask)
