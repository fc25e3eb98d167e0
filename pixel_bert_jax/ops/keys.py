"""Random keys that belong to an example, not to its position in a batch.

The key of a draw is fold(fold(fold(fold(base, step), TAG), hi), lo), where (hi, lo) is
the example id. Permuting, splitting or sharding a batch differently therefore
leaves all draws of an example unchanged.
"""

from __future__ import annotations

import jax
from jax import Array

SWAP = 1
MASK = 2
SAMPLE = 3
DROPOUT = 4
NO_EXAMPLE = 0xFFFFFFFF  # both halves of the example id of an empty slot


def tagged(base: Array, tag: int, step: Array | int | None = None) -> Array:
    """Returns the key of one kind of draw, of one step or (step None) of all."""
    key = base if step is None else jax.random.fold_in(base, step)
    return jax.random.fold_in(key, tag)


def per_example(key: Array, example_id: Array) -> Array:
    """Returns one key per example.

    Args:
      key: result of `tagged`.
      example_id: [..., 2] uint32, the two halves (hi, lo) of each example id.

    Returns:
      Keys of shape [...].
    """

    def one(halves: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, halves[0]), halves[1])

    keys = jax.vmap(one)(example_id.reshape(-1, 2))
    return keys.reshape(example_id.shape[:-1])


def per_image(key: Array, example_id: Array, images: int) -> Array:
    """Returns one key per image of each group: [G, M].

    Args:
      key: result of `tagged`.
      example_id: [G, K, 2] uint32; image m folds m into the key of text slot 0.
      images: M.
    """
    first = per_example(key, example_id[:, 0])
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(first, jax.numpy.arange(images))
