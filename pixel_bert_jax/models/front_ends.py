"""Front ends: from a CNN's feature map to the transformer's visual tokens.

Pixel-BERT, figure 2 and section 3.2: convolution to the transformer's width, 2x2 max
pooling, one vector s_v added to every pixel, random pixel sampling (pre-training only).
There is no position embedding and no norm on pixels; what the authors' later code
(SOHO) and ClipBERT do instead are options.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array

from pixel_bert_jax.models.bert import LayerNorm, init
from pixel_bert_jax.models.norm import MaskedBatchNorm
from pixel_bert_jax.ops.image import only, valid_cells
from pixel_bert_jax.ops.sampling import sample_cells, take_cells
from pixel_bert_jax.types import InputError, nearest

OPTIONS = {
    "order": ("conv_pool", "pool_conv"),
    "pool": (1, 2),
    "kernel": (1, 3),
    "norm": ("none", "batch", "layer"),
    "activation": ("none", "relu"),
    "positions": ("none", "learned", "sine"),
}
# Rows and columns with a learned position; at stride 64 they cover 4096 x 4096 pixels.
MAX_SIDE = 64
SINE_PERIOD = 10_000.0  # DETR, arXiv 2005.12872, and SOHO


@struct.dataclass
class VisualTokens:
    """Pixels that enter the transformer; G groups, M images, P pixels, D width."""

    features: Array  # [G, M, P, D]
    mask: Array  # [G, M, P] bool
    index: Array  # [G, M, P] int32, cell of the flattened h x w grid
    grid: tuple[int, int] = struct.field(pytree_node=False)


class PixelFrontEnd(nn.Module):
    """Convolution to the transformer's width, 2x2 max pool, + s_v.

    Attributes:
      features: D.
      order: "conv_pool" as in figure 2, or "pool_conv" as in SOHO.
      pool: side of the max pooling's windows; 1: none, for small images, of which 2
        would leave few pixels.
      kernel: side of the convolution's kernel: 1, or 3 as in ClipBERT.
      bias: whether the convolution has a bias.
      norm: "none"; "batch" after the convolution, as in SOHO; "layer" over the sum of
        pixel, s_v and position, as for BERT's text.
      activation: "none", or "relu" before s_v is added, as in ClipBERT.
      positions: "none"; "learned", one vector per row and one per column, as in
        ClipBERT; "sine", of row and column, as in SOHO.
      init_std: standard deviation of the initial learned positions.
      batch_statistics: whether `norm` = "batch" uses those of the batch in training.
      dtype: dtype of the products.
    """

    features: int
    order: str = "conv_pool"
    pool: int = 2
    kernel: int = 1
    bias: bool = True
    norm: str = "none"
    activation: str = "none"
    positions: str = "none"
    init_std: float = 0.02
    batch_statistics: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, size: Array, images: int, *, train: bool = False
    ) -> VisualTokens:
        """Makes one visual token per cell.

        Args:
          x: [G * M, h, w, C] features of the CNN.
          size: [G * M, 2] int32, valid (height, width) in cells; a pooling window
            counts only if all of it is valid, so floor(n / pool) cells remain.
          images: M.
          train: use and report batch statistics if `batch_statistics`.

        Raises:
          InputError: an unknown option, or a grid too large for learned positions.
        """
        self._check()
        if self.order == "conv_pool":
            x = self._pool(self._project(x, size, train))
        else:
            x = self._project(self._pool(x), size // self.pool, train)
        size = size // self.pool
        if self.activation == "relu":
            x = nn.relu(x)
        grid = x.shape[1:3]
        segment = self.param("segment", nn.initializers.normal(0.02), (self.features,))
        x = x + segment.astype(x.dtype)  # s_v
        if self.positions != "none":
            x = x + self._positions(grid, size).astype(x.dtype)
        if self.norm == "layer":
            x = LayerNorm(output=self.dtype, name="norm")(x)
        mask = valid_cells(size, grid)
        cells = grid[0] * grid[1]
        x = x.reshape(-1, images, cells, self.features)
        mask = mask.reshape(-1, images, cells)
        index = jnp.broadcast_to(jnp.arange(cells, dtype=jnp.int32), mask.shape)
        return VisualTokens(only(x, mask), mask, index, grid)

    def _pool(self, x: Array) -> Array:
        if self.pool == 1:
            return x
        side = self.pool, self.pool
        return nn.max_pool(x, side, strides=side)

    def _project(self, x: Array, size: Array, train: bool) -> Array:
        mask = valid_cells(size, x.shape[1:3])
        if self.kernel == 1:
            x = nn.Dense(
                self.features, use_bias=self.bias, dtype=self.dtype, name="project"
            )(x)
        else:
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                padding=(self.kernel - 1) // 2,
                use_bias=self.bias,
                dtype=self.dtype,
                name="project",
            )(only(x, mask))
        if self.norm == "batch":
            x = MaskedBatchNorm(self.batch_statistics and train, name="norm")(x, mask)
        return x

    def _positions(self, grid: tuple[int, int], size: Array) -> Array:
        """Returns [N, h, w, D], or [h, w, D] if they do not depend on the image."""
        if self.positions == "sine":
            return sine_positions(grid, size, self.features)
        if max(grid) > MAX_SIDE:
            raise InputError(
                f"model.front_end.positions = 'learned' covers {MAX_SIDE} rows and "
                f"columns, this canvas has {grid[0]} x {grid[1]} cells"
            )
        start = init(self.init_std)
        rows = self.param("rows", start, (MAX_SIDE, self.features))
        columns = self.param("columns", start, (MAX_SIDE, self.features))
        return rows[: grid[0], None] + columns[None, : grid[1]]

    def _check(self) -> None:
        for name, valid in OPTIONS.items():
            value = getattr(self, name)
            if value not in valid:
                raise InputError(
                    f"model.front_end.{name} is {value!r}"
                    f"{nearest(str(value), map(str, valid))}; valid: "
                    f"{', '.join(map(str, valid))}"
                )
        if self.positions == "sine" and self.features % 4:
            raise InputError(
                "model.front_end.positions = 'sine' needs model.features divisible by "
                f"4, received {self.features}"
            )


def sine_positions(grid: tuple[int, int], size: Array, features: int) -> Array:
    """Returns two-dimensional sine positions, relative to the image (DETR, SOHO).

    Row y of an image of h rows has the angle a = 2 pi (y + 1) / h; the first D / 2
    features are sin and cos, alternating, of a / 10000^(4 i / D) for i = 0 ..
    D / 4 - 1, the last D / 2 the same for the column.

    Args:
      grid: (h, w) of the canvas, static.
      size: [N, 2] int32 valid rows and columns.
      features: D, divisible by 4.

    Returns:
      [N, h, w, D] float32.
    """
    steps = jnp.arange(features // 4, dtype=jnp.float32)
    scale = SINE_PERIOD ** (steps * 4 / features)

    def axis(length: int, valid: Array) -> Array:
        position = jnp.arange(1, length + 1, dtype=jnp.float32)
        length_of = jnp.maximum(valid[:, None], 1).astype(jnp.float32)
        angle = 2 * math.pi * position / length_of
        angle = angle[..., None] / scale
        waves = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
        return waves.reshape(*waves.shape[:2], -1)  # [N, length, D / 2]

    rows, columns = axis(grid[0], size[:, 0]), axis(grid[1], size[:, 1])
    shape = (size.shape[0], *grid, features // 2)
    return jnp.concatenate(
        [
            jnp.broadcast_to(rows[:, :, None], shape),
            jnp.broadcast_to(columns[:, None], shape),
        ],
        axis=-1,
    )


def sample_pixels(visual: VisualTokens, keys: Array, count: int) -> VisualTokens:
    """Keeps min(N, count) of the N pixels of each image (section 3.3).

    Whether s_v is added before or after sampling makes no difference.

    Args:
      visual: tokens of all cells.
      keys: [G, M], one random key per image.
      count: pixels to keep; the result has P = min(cells, count) tokens per image.
    """
    index, mask = sample_cells(keys, visual.mask, count)
    features = only(take_cells(visual.features, index), mask)
    return visual.replace(features=features, mask=mask, index=index)
