"""Random pixel sampling (Pixel-BERT, section 3.3).

Each step keeps a fixed number of feature pixels of every image: drawn per image,
without replacement, among the cells that are not padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def sample_cells(keys: Array, valid: Array, count: int) -> tuple[Array, Array]:
    """Draws min(N, count) of the N valid cells of each image, uniformly.

    Args:
      keys: [...], one random key per image.
      valid: [..., C] bool, False for padding in the flattened grid.
      count: cells to keep; the static length of the result is P = min(C, count).

    Returns:
      index: [..., P] int32, ascending; if an image has fewer valid cells, the rest
        points at cell 0.
      mask: [..., P] bool, False for that rest.
    """
    cells = valid.shape[-1]
    kept = min(cells, count)

    def one(key: Array, valid: Array) -> tuple[Array, Array]:
        # Random 32-bit scores; padding sorts last. Ties keep the cell order, which is
        # harmless: with 2^32 values they are rarer than one in a million images.
        scores = jax.random.bits(key, (cells,), jnp.uint32)
        order = jnp.lexsort((scores, ~valid))[:kept]
        chosen = jnp.sort(jnp.where(valid[order], order, cells))
        mask = chosen < cells
        return jnp.where(mask, chosen, 0).astype(jnp.int32), mask

    flat_keys = keys.reshape(-1)
    index, mask = jax.vmap(one)(flat_keys, valid.reshape(-1, cells))
    shape = (*valid.shape[:-1], kept)
    return index.reshape(shape), mask.reshape(shape)


def take_cells(features: Array, index: Array) -> Array:
    """Picks cells of each image's own feature map.

    Args:
      features: [G, M, C, D].
      index: [G, M, P] int32.

    Returns:
      [G, M, P, D].
    """
    return jnp.take_along_axis(features, index[..., None], axis=-2)
