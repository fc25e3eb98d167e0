"""Residual CNNs over whole images of any size on a padded canvas.

ResNet (He et al., arXiv 1512.03385) with basic or bottleneck blocks, the stride in the
3x3 convolution (torchvision's "v1.5"), and ResNeXt (Xie et al., arXiv 1611.05431).
Padding never leaks: every spatial convolution and pool reads its input masked by the
image's size, and explicit padding (k - 1) / 2 is used, so an image gives the same
features on every canvas (with frozen norm). A stride-2 layer keeps ceil(n / 2) valid
cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.norm import MaskedBatchNorm
from pixel_bert_jax.models.remat import remat
from pixel_bert_jax.ops.image import only, valid_cells
from pixel_bert_jax.types import InputError, nearest

STEMS = {"conv3": 2, "conv7_pool": 4}  # name -> stride
IMAGENET_STEM = 64  # channels of every published ResNet's first convolution


class Conv(nn.Module):
    """Convolution without bias on the valid cells, with torch's padding.

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: stride of both axes.
      groups: independent groups of channels.
      dtype: dtype of the products; parameters are float32.
    """

    features: int
    kernel: int
    stride: int = 1
    groups: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Maps x [N, h, w, C], mask [N, h, w] to [N, ceil(h/s), ceil(w/s), F]."""
        padding = (self.kernel - 1) // 2
        if self.kernel > 1:
            x = only(x, mask)
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=padding,
            feature_group_count=self.groups,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="conv",
        )(x)


class Block(nn.Module):
    """A few convolutions, each normalised, with a shortcut around all of them.

    Basic (ResNet-18/34): 3x3, 3x3. Bottleneck (ResNet-50 and deeper, ResNeXt): 1x1 to
    `inner` channels, 3x3 in groups, 1x1. The first 3x3 convolution has the stride.

    Attributes:
      features: channels of the block's output.
      inner: channels of a bottleneck's 3x3 convolution; 0 = basic block.
      stride: stride of the first 3x3 convolution and of the shortcut.
      groups: groups of channels of a bottleneck's 3x3 convolution.
      batch_statistics: normalise by the batch's statistics, and report them.
      dtype: dtype of the products.
    """

    features: int
    inner: int
    stride: int
    groups: int
    batch_statistics: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Array) -> Array:
        """Maps x [N, h, w, C] of valid `size` [N, 2] to [N, h/s, w/s, F]."""
        outer = valid_cells(size, x.shape[1:3])
        grid = tuple(-(-n // self.stride) for n in x.shape[1:3])
        inner = valid_cells(-(-size // self.stride), grid)
        # (features, kernel, stride, groups) of each convolution.
        if self.inner:
            layers = (
                (self.inner, 1, 1, 1),
                (self.inner, 3, self.stride, self.groups),
                (self.features, 1, 1, 1),
            )
        else:
            layers = ((self.features, 3, self.stride, 1), (self.features, 3, 1, 1))
        y, mask = x, outer
        for number, (features, kernel, stride, groups) in enumerate(layers, 1):
            conv = Conv(
                features, kernel, stride, groups, self.dtype, name=f"conv{number}"
            )
            y = conv(y, mask)
            # From the strided convolution on, cells lie on the smaller grid.
            if stride > 1:
                mask = inner
            y = MaskedBatchNorm(self.batch_statistics, name=f"norm{number}")(y, mask)
            if number < len(layers):
                y = nn.relu(y)
        # As He et al.'s option B: a projection only where the shape changes.
        if x.shape != y.shape:
            x = Conv(self.features, 1, self.stride, 1, self.dtype, name="shortcut")(
                x, outer
            )
            x = MaskedBatchNorm(self.batch_statistics, name="shortcut_norm")(x, inner)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A stem, then stages of residual blocks.

    Attributes:
      depths: blocks per stage.
      widths: output channels per stage.
      strides: stride of each stage's first block; the total stride is that of the stem
        (see STEMS) x their product.
      inner: channels of the 3x3 convolutions per stage; () = basic blocks.
      groups: groups of the bottlenecks' 3x3 convolutions (ResNeXt's cardinality).
      stem: "conv3", one 3x3 convolution of stride 2 to the first stage's width, or
        "conv7_pool", a 7x7 one to 64 channels and a 3x3 max pool, stride 2 each.
      norm: "batch" or "frozen".
      frozen_stages: the stem and this many stages normalise by running statistics even
        if `norm` is "batch"; -1: not even the stem.
      remat: see `models/remat.py`.
      dtype: dtype of the products.
    """

    depths: Sequence[int]
    widths: Sequence[int]
    strides: Sequence[int]
    inner: Sequence[int] = ()
    groups: int = 1
    stem: str = "conv3"
    norm: str = "batch"
    frozen_stages: int = -1
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @staticmethod
    def frozen_patterns(fields: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns patterns of the paths of parameters that are not trained.

        Args:
          fields: `config.model.backbone`. Its `frozen_stages` is the number of stages
            that are frozen besides the stem; -1: nothing is frozen.
        """
        if fields["frozen_stages"] < 0:
            return ()
        stages = range(1, fields["frozen_stages"] + 1)
        return (r"backbone/stem.*", *(rf"backbone/stage{n}_.*" for n in stages))

    @nn.compact
    def __call__(
        self, image: Array, image_size: Array, *, train: bool
    ) -> tuple[Array, Array]:
        """Extracts features.

        Args:
          image: [N, H, W, 3] float32, normalised, zero outside the image.
          image_size: [N, 2] int32 valid (height, width); (0, 0) for padding.
          train: use and report batch statistics if `norm` is "batch".

        Returns:
          features [N, h, w, C] and their valid size [N, 2].

        Raises:
          InputError: an unknown stem, or lists of different lengths.
        """
        self._check()
        batch_statistics = self.norm == "batch" and train
        x, size = self._stem(
            image, image_size, batch_statistics and self.frozen_stages < 0
        )
        block_class = remat(Block, self.remat)
        inner = self.inner or (0,) * len(self.depths)
        stages = zip(self.depths, self.widths, self.strides, inner, strict=True)
        for stage, (depth, width, stride, middle) in enumerate(stages, 1):
            for block in range(depth):
                # Only a stage's first block reduces the size.
                step = stride if block == 0 else 1
                x = block_class(
                    width,
                    middle,
                    step,
                    self.groups,
                    batch_statistics and stage > self.frozen_stages,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x, size)
                size = -(-size // step)
        return x, size

    def _stem(
        self, image: Array, size: Array, batch_statistics: bool
    ) -> tuple[Array, Array]:
        small = self.stem == "conv3"
        width, kernel = (self.widths[0], 3) if small else (IMAGENET_STEM, 7)
        mask = valid_cells(size, image.shape[1:3])
        x = Conv(width, kernel, 2, 1, self.dtype, name="stem")(image, mask)
        size = -(-size // 2)
        inside = valid_cells(size, x.shape[1:3])
        x = nn.relu(MaskedBatchNorm(batch_statistics, name="stem_norm")(x, inside))
        if small:
            return x, size
        # After a ReLU, padding with zero has the effect of torch's minus infinity.
        x = nn.max_pool(only(x, inside), (3, 3), strides=(2, 2), padding=((1, 1),) * 2)
        return x, -(-size // 2)

    def _check(self) -> None:
        if self.stem not in STEMS:
            raise InputError(
                f"model.backbone.stem is {self.stem!r}{nearest(self.stem, STEMS)}; "
                f"valid: {', '.join(STEMS)}"
            )
        lists = {"depths": self.depths, "widths": self.widths, "strides": self.strides}
        if self.inner:
            lists["inner"] = self.inner
        if len({len(values) for values in lists.values()}) > 1:
            raise InputError(
                "model.backbone: expected as many values in each of "
                + ", ".join(f"{name} ({len(v)})" for name, v in lists.items())
            )
