"""Convolution of each channel on its own, fast on CPUs too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array, lax

from pixel_bert_jax.ops.losses import at_least_float32

NHWC = ("NHWC", "HWIO", "NHWC")


def depthwise(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """Convolves each channel with its own kernel, as `lax.conv_general_dilated` does.

    XLA computes such convolutions on CPUs by a loop over single numbers. There, a sum
    of shifted products takes less than a tenth of the time (docs/results.md).

    Args:
      x: [N, H, W, C].
      kernel: [k, k, 1, C].
      strides: of the two axes.
      padding: of the two axes, (before, after), or "VALID".
      **options: what `flax.linen.Conv` passes besides, of which dilation has to be 1.

    Returns:
      [N, h, w, C] in the dtype of `x`.
    """
    for name in ("lhs_dilation", "rhs_dilation"):
        if any(n != 1 for n in options.get(name) or ()):
            raise ValueError(f"{name} is {options[name]}, expected 1")

    def convolved(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            dimension_numbers=NHWC,
            feature_group_count=x.shape[-1],
            precision=options.get("precision"),
        )

    def shifted(x: Array, kernel: Array) -> Array:
        around = [(0, 0), (0, 0)] if padding == "VALID" else list(padding)
        padded = lax.pad(
            x, x.dtype.type(0), [(0, 0, 0), *((*p, 0) for p in around), (0, 0, 0)]
        )
        _, height, width, _ = jax.eval_shape(convolved, x, kernel).shape
        total: Any = 0
        for i in range(kernel.shape[0]):
            for j in range(kernel.shape[1]):
                part = lax.slice(
                    padded,
                    (0, i, j, 0),
                    (
                        len(x),
                        i + strides[0] * (height - 1) + 1,
                        j + strides[1] * (width - 1) + 1,
                        x.shape[-1],
                    ),
                    (1, *strides, 1),
                )
                total = total + at_least_float32(part) * at_least_float32(kernel[i, j])
        return total.astype(x.dtype)

    return lax.platform_dependent(x, kernel, cpu=shifted, default=convolved)
