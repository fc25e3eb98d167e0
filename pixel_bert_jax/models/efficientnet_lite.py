"""EfficientNet-Lite 0 to 4 over whole images of any size on a padded canvas.

EfficientNet (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation, with ReLU6,
and with a stem and a head of fixed width; block table, scaling and input range as in
github.com/tensorflow/tpu, models/official/efficientnet/lite. The total stride is 32.

As in `resnet.py`, padding never leaks, so an image gives the same features on every
canvas (with frozen norm). TensorFlow's "SAME" padding, with which these models are
published, depends on the size: before an even axis, a convolution of stride 2 has one
cell of padding less than before an odd one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.models.norm import MaskedBatchNorm
from pixel_bert_jax.models.remat import remat
from pixel_bert_jax.ops.depthwise import depthwise
from pixel_bert_jax.ops.image import RGB_MEAN, RGB_STD, only, valid_cells
from pixel_bert_jax.types import InputError

EPSILON = 1e-3  # of its batch norms
STEM, HEAD = 32, 1280  # channels, not scaled
# Pixels of these models are (value - 127) / 128.
MEAN, STD = 127.0, 128.0
# Number of the model -> factors of widths and of depths.
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


class Stage(NamedTuple):
    """Blocks of a stage of EfficientNet-B0, before scaling."""

    depth: int
    kernel: int
    stride: int
    expansion: int
    features: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def stages(variant: int) -> tuple[Stage, ...]:
    """Returns the stages of EfficientNet-Lite `variant`.

    Widths are rounded to multiples of 8, but by at most 10 % down; depths are rounded
    up, and the first and last stage's are not scaled.

    Raises:
      InputError: there is no such variant.
    """
    if not 0 <= variant < len(SCALES):
        raise InputError(
            f"model.backbone.variant is {variant!r}; valid: 0 to {len(SCALES) - 1}"
        )
    width, depth = SCALES[variant]

    def scaled(number: int, stage: Stage) -> Stage:
        wanted = stage.features * width
        features = max(8, int(wanted + 4) // 8 * 8)
        features += 8 * (features < 0.9 * wanted)
        repeats = math.ceil(stage.depth * depth)
        ends = number in (0, len(STAGES) - 1)
        return stage._replace(features=features, depth=stage.depth if ends else repeats)

    return tuple(scaled(n, stage) for n, stage in enumerate(STAGES))


class Conv(nn.Module):
    """Convolution without bias on the valid cells, with TensorFlow's "SAME" padding.

    Attributes:
      features: output channels.
      kernel: side of the square kernel, odd.
      stride: 1 or 2.
      depthwise: convolve each channel on its own.
      dtype: dtype of the products; parameters are float32.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Array) -> Array:
        """Maps x [N, h, w, C], valid `size` [N, 2] to [N, ceil(h/s), ceil(w/s), F]."""
        padding: Any = self.kernel // 2
        if self.kernel > 1:
            x = only(x, valid_cells(size, x.shape[1:3]))
        if self.stride > 1:
            for axis in (1, 2):
                x = self._padded(x, size[:, axis - 1], axis)
            padding = "VALID"
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=padding,
            feature_group_count=x.shape[-1] if self.depthwise else 1,
            conv_general_dilated=depthwise if self.depthwise else None,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="conv",
        )(x)

    def _padded(self, x: Array, length: Array, axis: int) -> Array:
        """Pads an axis on both sides, for images of even and of odd `length` [N]."""
        before = self.kernel // 2  # of an odd axis; one less of an even one
        cells = -(-x.shape[axis] // self.stride)
        needed = (cells - 1) * self.stride + self.kernel
        widths = [(0, 0)] * x.ndim
        widths[axis] = before, needed + 1 - before - x.shape[axis]
        x = jnp.pad(x, widths)
        odd = (length % 2 == 1)[:, None, None, None]
        first = [slice(None)] * x.ndim
        second = list(first)
        first[axis], second[axis] = slice(0, needed), slice(1, needed + 1)
        return jnp.where(odd, x[tuple(first)], x[tuple(second)])


class Block(nn.Module):
    """Inverted residual: 1x1 to more channels, depthwise, 1x1 to `features`.

    Attributes:
      features: channels of the output.
      expansion: factor of the channels in between; 1: no first convolution.
      kernel: side of the depthwise kernel.
      stride: stride of the depthwise convolution.
      batch_statistics: normalise by the batch's statistics, and report them.
      dtype: dtype of the products.
    """

    features: int
    expansion: int
    kernel: int
    stride: int
    batch_statistics: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Array) -> Array:
        """Maps x [N, h, w, C] of valid `size` [N, 2] to [N, h/s, w/s, F]."""

        def norm(x: Array, size: Array, name: str) -> Array:
            mask = valid_cells(size, x.shape[1:3])
            return MaskedBatchNorm(self.batch_statistics, EPSILON, name=name)(x, mask)

        channels = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = Conv(channels, dtype=self.dtype, name="expand")(y, size)
            y = nn.relu6(norm(y, size, "expand_norm"))
        y = Conv(
            channels, self.kernel, self.stride, True, self.dtype, name="depthwise"
        )(y, size)
        size = -(-size // self.stride)
        y = nn.relu6(norm(y, size, "depthwise_norm"))
        y = Conv(self.features, dtype=self.dtype, name="project")(y, size)
        y = norm(y, size, "project_norm")
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """A stem, seven stages of inverted residuals, and a 1x1 convolution, the head.

    Attributes:
      variant: 0 to 4.
      norm: "batch" or "frozen".
      frozen_stages: the stem and this many stages are not trained and normalise by
        running statistics even if `norm` is "batch"; 8: all stages and the head; -1:
        everything is trained.
      remat: see `models/remat.py`.
      dtype: dtype of the products.
    """

    variant: int = 0
    norm: str = "batch"
    frozen_stages: int = -1
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @staticmethod
    def frozen_patterns(fields: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns patterns of the paths of parameters that are not trained.

        Args:
          fields: `config.model.backbone`.
        """
        frozen = fields.get("frozen_stages", -1)
        if frozen < 0:
            return ()
        depths = [stage.depth for stage in stages(fields.get("variant", 0))]
        patterns = [rf"backbone/block{n}/.*" for n in range(sum(depths[:frozen]))]
        if frozen > len(STAGES):
            patterns.append(r"backbone/head.*")
        return (r"backbone/stem.*", *patterns)

    @nn.compact
    def __call__(
        self, image: Array, image_size: Array, *, train: bool
    ) -> tuple[Array, Array]:
        """Extracts features.

        Args:
          image: [N, H, W, 3] float32, normalised by `ops.image`.
          image_size: [N, 2] int32 valid (height, width); (0, 0) for padding.
          train: use and report batch statistics if `norm` is "batch".

        Returns:
          features [N, ceil(H/32), ceil(W/32), 1280], at least 0 and at most 6, and
          their valid size [N, 2].

        Raises:
          InputError: there is no such variant.
        """
        table = stages(self.variant)
        batch_statistics = self.norm == "batch" and train

        def live(stage: int) -> bool:
            return batch_statistics and stage > self.frozen_stages

        def layer(x: Array, size: Array, conv: Conv, name: str, live: bool) -> Array:
            x = conv(x, size)
            size = -(-size // conv.stride)
            mask = valid_cells(size, x.shape[1:3])
            norm = MaskedBatchNorm(live, EPSILON, name=f"{name}_norm")
            return nn.relu6(norm(x, mask))

        # From the normalisation of `ops.image` to that of these models.
        mean, std = (jnp.asarray(v, image.dtype) for v in (RGB_MEAN, RGB_STD))
        x = image * (std / STD) + (mean - MEAN) / STD
        size = image_size
        conv = Conv(STEM, 3, 2, dtype=self.dtype, name="stem")
        x = layer(x, size, conv, "stem", live(0))
        size = -(-size // 2)
        block_class = remat(Block, self.remat)
        number = 0  # blocks are numbered through, as in the published weights
        for index, stage in enumerate(table, 1):
            for repeat in range(stage.depth):
                # Only a stage's first block reduces the size.
                stride = stage.stride if repeat == 0 else 1
                x = block_class(
                    stage.features,
                    stage.expansion,
                    stage.kernel,
                    stride,
                    live(index),
                    self.dtype,
                    name=f"block{number}",
                )(x, size)
                size = -(-size // stride)
                number += 1
        conv = Conv(HEAD, dtype=self.dtype, name="head")
        return layer(x, size, conv, "head", live(len(table) + 1)), size
