"""From a CNN's feature map to the transformer's visual tokens.

Pixel-BERT, figure 2 and section 3.2: convolution to the transformer's width, 2x2 max
pooling, one vector s_v added to every pixel, random pixel sampling (pre-training only).
There is no position embedding and no norm on pixels.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array

from pixel_bert_jax.ops.image import valid_cells
from pixel_bert_jax.ops.sampling import sample_cells, take_cells


@struct.dataclass
class VisualTokens:
    """Pixels that enter the transformer; G groups, M images, P pixels, D width."""

    features: Array  # [G, M, P, D]
    mask: Array  # [G, M, P] bool
    index: Array  # [G, M, P] int32, cell of the flattened h x w grid
    grid: tuple[int, int] = struct.field(pytree_node=False)


class PixelFrontEnd(nn.Module):
    """1x1 convolution with bias, 2x2 max pool, + s_v.

    Attributes:
      features: D.
      dtype: of the products.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Array, images: int) -> VisualTokens:
        """Makes a visual token of every cell.

        Args:
          x: [G * M, h, w, C] features of the CNN.
          size: [G * M, 2] int32, their valid size; a pooling window counts only if it
            is whole, so floor(n / 2) cells remain.
          images: M.
        """
        x = nn.Dense(self.features, dtype=self.dtype, name="project")(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        grid = x.shape[1:3]
        mask = valid_cells(size // 2, grid)
        cells = grid[0] * grid[1]
        x = x.reshape(-1, images, cells, self.features)
        mask = mask.reshape(-1, images, cells)
        index = jnp.broadcast_to(jnp.arange(cells, dtype=jnp.int32), mask.shape)
        segment = self.param(
            "segment", nn.initializers.normal(0.02), (self.features,)
        ).astype(x.dtype)
        return VisualTokens(_only(x + segment, mask), mask, index, grid)


def sample_pixels(visual: VisualTokens, keys: Array, count: int) -> VisualTokens:
    """Keeps min(N, count) of the N pixels of each image (section 3.3).

    Adding s_v before or after makes no difference.

    Args:
      visual: of every cell.
      keys: [G, M] random keys.
      count: the result has P = min(cells, count) places an image.
    """
    index, mask = sample_cells(keys, visual.mask, count)
    features = _only(take_cells(visual.features, index), mask)
    return visual.replace(features=features, mask=mask, index=index)


def _only(features: Array, mask: Array) -> Array:
    return jnp.where(mask[..., None], features, jnp.zeros((), features.dtype))
