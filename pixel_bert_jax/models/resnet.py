"""Residual CNN over whole images of any size on a padded canvas.

He et al., arXiv 1512.03385, with basic blocks. Padding never leaks: every spatial
convolution reads its input masked by the image's size, and explicit padding
(k - 1) / 2 is used, so an image gives the same features on every canvas (with frozen
norm). A stride-2 layer keeps ceil(n / 2) valid cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.norm import MaskedBatchNorm
from pixel_bert_jax.ops.image import valid_cells


class Conv(nn.Module):
    """Convolution without bias on the valid cells, with torch's padding.

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: of both axes.
      dtype: of the products; parameters are float32.
    """

    features: int
    kernel: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Maps x [N, h, w, C], mask [N, h, w] to [N, ceil(h/s), ceil(w/s), F]."""
        padding = (self.kernel - 1) // 2
        if self.kernel > 1:
            x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=padding,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="conv",
        )(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (ResNet-18/34's block).

    Attributes:
      features: channels of the block.
      stride: of the first convolution and of the shortcut.
      live_norm: see MaskedBatchNorm.
      dtype: of the products.
    """

    features: int
    stride: int
    live_norm: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Array, *, train: bool) -> tuple[Array, Array]:
        """Maps x [N, h, w, C] of valid `size` [N, 2] to (y, its valid size)."""
        mask = valid_cells(size, x.shape[1:3])
        size = -(-size // self.stride)
        grid = tuple(-(-n // self.stride) for n in x.shape[1:3])
        inner = valid_cells(size, grid)

        def norm(name: str) -> MaskedBatchNorm:
            return MaskedBatchNorm(self.live_norm, name=name)

        y = Conv(self.features, 3, self.stride, self.dtype, name="conv1")(x, mask)
        y = nn.relu(norm("norm1")(y, inner, train=train))
        y = Conv(self.features, 3, 1, self.dtype, name="conv2")(y, inner)
        y = norm("norm2")(y, inner, train=train)
        if x.shape != y.shape:
            x = Conv(self.features, 1, self.stride, self.dtype, name="shortcut")(
                x, mask
            )
            x = norm("shortcut_norm")(x, inner, train=train)
        return nn.relu(x + y), size


class ResNet(nn.Module):
    """Stem of one 3x3 convolution of stride 2, then stages of basic blocks.

    Attributes:
      depths: blocks a stage.
      widths: channels a stage; the stem has the first stage's.
      strides: stride of each stage's first block; the total stride is 2 x their
        product.
      norm: "frozen" or "batch".
      dtype: of the products.
    """

    depths: Sequence[int]
    widths: Sequence[int]
    strides: Sequence[int]
    norm: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, image: Array, image_size: Array, *, train: bool
    ) -> tuple[Array, Array]:
        """Extracts features.

        Args:
          image: [N, H, W, 3] float32, normalised, zero outside the image.
          image_size: [N, 2] int32 valid (height, width); (0, 0) for no image.
          train: use and report batch statistics where `norm` is "batch".

        Returns:
          features [N, h, w, C] and their valid size [N, 2].
        """
        live = self.norm == "batch"
        mask = valid_cells(image_size, image.shape[1:3])
        x = Conv(self.widths[0], 3, 2, self.dtype, name="stem")(image, mask)
        size = -(-image_size // 2)
        inner = valid_cells(size, x.shape[1:3])
        x = nn.relu(MaskedBatchNorm(live, name="stem_norm")(x, inner, train=train))
        stages = zip(self.depths, self.widths, self.strides, strict=True)
        for stage, (depth, width, stride) in enumerate(stages, 1):
            for block in range(depth):
                x, size = BasicBlock(
                    width,
                    stride if block == 0 else 1,
                    live,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x, size, train=train)
        return x, size
