"""Resizing and normalising images on the device.

An image arrives as its original pixels in the corner of a square source canvas. It is
resized by two small matrix products with a triangle filter (bilinear; widened when
shrinking, as antialiased resizing does), half-pixel centres. Padding of the result is
exactly zero, and nothing outside the image can reach it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

# ImageNet statistics of RGB in 0..255, as used by torchvision's and OpenMMLab's
# classification weights.
RGB_MEAN = (123.675, 116.28, 103.53)
RGB_STD = (58.395, 57.12, 57.375)


def resize_matrix(source: Array, target: Array, rows: int, columns: int) -> Array:
    """Returns the triangle filter of one axis as a matrix.

    Row o holds max(0, 1 - |i - c| / s) over source cells i, normalised, where
    c = (o + 0.5) source / target - 0.5 and s = max(source / target, 1).

    Args:
      source: [...] int32, valid length of the source axis (0 gives zeros).
      target: [...] int32, valid length of the result.
      rows: static length of the result's axis.
      columns: static length of the source's axis.

    Returns:
      [..., rows, columns] float32; rows beyond `target` are zero.
    """
    source_length = source[..., None, None].astype(jnp.float32)
    target_length = target[..., None, None].astype(jnp.float32)
    scale = source_length / jnp.maximum(target_length, 1.0)
    out = jnp.arange(rows, dtype=jnp.float32)[:, None]
    cell = jnp.arange(columns, dtype=jnp.float32)[None, :]
    centre = (out + 0.5) * scale - 0.5
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(cell - centre) / jnp.maximum(scale, 1.0))
    weights = jnp.where((cell < source_length) & (out < target_length), weights, 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def resize(
    image: Array, source_size: Array, image_size: Array, canvas: tuple[int, int]
) -> Array:
    """Resizes each image from its source canvas onto the bucket's canvas.

    Args:
      image: [..., S, S, 3] uint8.
      source_size: [..., 2] int32 (height, width) of the pixels in `image`.
      image_size: [..., 2] int32 (height, width) of the result.
      canvas: (H, W), static.

    Returns:
      [..., H, W, 3] float32 in 0..255, zero outside the image.
    """
    height, width = canvas
    rows = resize_matrix(
        source_size[..., 0], image_size[..., 0], height, image.shape[-3]
    )
    columns = resize_matrix(
        source_size[..., 1], image_size[..., 1], width, image.shape[-2]
    )
    pixels = image.astype(jnp.float32)
    # Full float32: bfloat16 products would move pixels by up to 1.5 of 255.
    half = jnp.einsum(
        "...oi,...ijc->...ojc", rows, pixels, precision=lax.Precision.HIGHEST
    )
    return jnp.einsum(
        "...pj,...ojc->...opc", columns, half, precision=lax.Precision.HIGHEST
    )


def valid_cells(size: Array, grid: tuple[int, int]) -> Array:
    """Returns [..., h, w] bool, True where a cell of the grid lies inside `size`.

    Args:
      size: [..., 2] int32 (height, width) in cells of this grid.
      grid: (h, w), static.
    """
    rows = jnp.arange(grid[0]) < size[..., 0, None]
    columns = jnp.arange(grid[1]) < size[..., 1, None]
    return rows[..., :, None] & columns[..., None, :]


def only(x: Array, mask: Array) -> Array:
    """Zeroes x [..., C] where mask [...] is False, NaN included."""
    return jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))


def prepare(
    image: Array, source_size: Array, image_size: Array, canvas: tuple[int, int]
) -> Array:
    """Resizes, normalises by ImageNet's statistics and zeroes the padding.

    Arguments and shapes are those of `resize`; returns [..., H, W, 3] float32.
    """
    pixels = resize(image, source_size, image_size, canvas)
    mean = jnp.asarray(RGB_MEAN, jnp.float32)
    std = jnp.asarray(RGB_STD, jnp.float32)
    inside = valid_cells(image_size, canvas)[..., None]
    return jnp.where(inside, (pixels - mean) / std, 0.0)


@functools.partial(jax.jit, static_argnames="canvas")
def prepare_images(
    batch: dict[str, Array], canvas: tuple[int, int]
) -> dict[str, Array]:
    """Resizes and normalises a batch's images on the device, as a separate program.

    Args:
      batch: has `image`, `source_size`, `image_size` and, if there are partners, the
        same with the prefix `other_`; any leading axes.
      canvas: (height, width), static.

    Returns:
      The batch with float32 images on the canvas and without the source sizes.
    """
    out = dict(batch)
    for prefix in ("", "other_"):
        if prefix + "image" in out:
            source = out.pop(prefix + "source_size")
            out[prefix + "image"] = prepare(
                out[prefix + "image"], source, out[prefix + "image_size"], canvas
            )
    return out
