"""Sizes of images: target size, canvas and source canvas, in integer arithmetic.

Pixel-BERT resizes an image so that its shorter side is 800 and its longer side at most
1333 (arXiv 2004.00849, section 4.2), and does not crop it. XLA compiles a program for
each static shape, so a resized image is laid on the smallest of a few *canvases*, and
the original pixels are sent to the device on a square *source canvas*. Training,
evaluation and inference all take their sizes from here.

Sizes and canvases are (height, width); only configs and messages write "WIDTHxHEIGHT".
Rounding is floor(x + 1/2) of the exact quotient, not of a float, so that sizes are the
same on every machine. The size (0, 0) stands for no image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_bert_jax.types import InputError

Size = tuple[int, int]

MINIMUM_SIDE = 64
"""Shortest target side, pixels. A network of stride 64 makes one cell of it."""


def parse_canvas(text: str) -> Size:
    """Returns (height, width) of a canvas written "WIDTHxHEIGHT", as in configs.

    Raises:
      InputError: `text` is not two positive integers joined by "x".
    """
    sides = str(text).strip().lower().split("x")
    if len(sides) == 2 and all(s.isascii() and s.isdigit() for s in sides):
        width, height = int(sides[0]), int(sides[1])
        if width > 0 and height > 0:
            return height, width
    raise InputError(
        'Expected a canvas as "WIDTHxHEIGHT" in pixels, for example "1344x800", '
        f"received {text!r}."
    )


def format_canvas(canvas: Size) -> str:
    """Returns "WIDTHxHEIGHT" of a canvas (height, width); inverts `parse_canvas`."""
    height, width = canvas
    return f"{width}x{height}"


def target_sizes(
    sizes: np.ndarray,
    short: int | np.ndarray,
    long: int | np.ndarray,
    minimum: int = MINIMUM_SIDE,
) -> np.ndarray:
    """Returns the sizes that images are resized to, int32 [..., 2] (height, width).

    scale = min(short / min(h, w), long / max(h, w)), sides floor(side * scale + 1/2).
    The shorter side is thus at most `short` and the longer at most `long`. A side below
    `minimum` is raised to it, which stretches only images more elongated than
    long : minimum (1x1000 pixels become 64x1333). As minimum <= short, both bounds
    still hold: canvases of short x long and long x short hold every image.

    Args:
      sizes: integers [..., 2], (height, width) in pixels; (0, 0) stays (0, 0).
      short: length of the shorter side, pixels, unless `long` limits it; an integer, or
        one for each size, [...].
      long: greatest length of the longer side, pixels; likewise.
      minimum: smallest length of a side, pixels.

    Raises:
      InputError: not 0 < minimum <= short <= long, or a side is not positive.
    """
    short, long = (np.asarray(side, np.int64)[..., None] for side in (short, long))
    if not (minimum > 0 and (minimum <= short).all() and (short <= long).all()):
        raise InputError(
            "Expected 0 < minimum <= short <= long for the target size, received "
            f"minimum={minimum}, short={short.squeeze()}, long={long.squeeze()}."
        )
    sizes = _checked(sizes)
    shorter = sizes.min(axis=-1, keepdims=True)
    longer = sizes.max(axis=-1, keepdims=True)
    no_image = longer == 0
    by_short = short * longer <= long * shorter  # short/shorter <= long/longer
    numerator = np.where(by_short, short, long)
    denominator = np.where(by_short, shorter, longer) + no_image  # not 0
    targets = _round_quotient(sizes * numerator, denominator)
    return np.where(no_image, 0, np.maximum(targets, minimum)).astype(np.int32)


def choose_canvas(targets: np.ndarray, canvases: Sequence[Size]) -> np.ndarray:
    """Returns the canvas of smallest area that holds all M images of an image set.

    It depends only on the images of the set, so that the other examples of a batch
    never change a result. Of canvases of equal area the first is chosen.

    Args:
      targets: int [N, M, 2] (height, width) of resized images; (0, 0) fits anywhere.
      canvases: (height, width) each.

    Returns:
      int32 [N], indices into `canvases`.

    Raises:
      InputError: no canvas is given, or an image set does not fit on any.
    """
    if not len(canvases):
        raise InputError("Expected at least one canvas, received none.")
    needed = np.asarray(targets).max(axis=1)  # [N, 2]
    table = np.asarray(canvases, np.int64)
    by_area = np.argsort(table.prod(axis=1), kind="stable")
    chosen = np.full(len(needed), -1, np.int32)
    # From large to small, so that the smallest canvas that fits is assigned last.
    for index in by_area[::-1]:
        chosen[(needed <= table[index]).all(axis=1)] = index
    if (chosen < 0).any():
        height, width = needed[np.argmin(chosen)].tolist()
        raise InputError(
            f"Expected a canvas of at least {width}x{height} (width x height), "
            f"received {', '.join(map(format_canvas, canvases))}. Add one that holds "
            "it to `data.canvases`; mixed wide and tall images need a square one."
        )
    return chosen


def source_sizes(sizes: np.ndarray, source_canvases: Sequence[int]) -> np.ndarray:
    """Returns the sizes of images on their source canvas, int32 [..., 2].

    An image with a side above the largest source canvas S is shrunk once, at decoding,
    by S / max(h, w) with sides floor(x + 1/2), at least 1; others keep their size.
    Target sizes are always computed from the *original* size, whose aspect ratio is not
    rounded.

    Args:
      sizes: integers [..., 2], original (height, width) in pixels; (0, 0) stays (0, 0).
      source_canvases: sides of the square source canvases, pixels.

    Raises:
      InputError: a side of an image or of a canvas is not positive.
    """
    largest = max(_checked_sources(source_canvases))
    sizes = _checked(sizes)
    longer = sizes.max(axis=-1, keepdims=True)
    shrunk = np.maximum(_round_quotient(sizes * largest, np.maximum(longer, 1)), 1)
    return np.where(longer > largest, shrunk, sizes).astype(np.int32)


def choose_source(sizes: np.ndarray, source_canvases: Sequence[int]) -> np.ndarray:
    """Returns the smallest source canvas that holds all M images of an image set.

    Args:
      sizes: integers [N, M, 2], (height, width) in pixels, either original or after
        `source_sizes`: the result is the same.
      source_canvases: sides of the square source canvases, pixels, in any order.

    Returns:
      int32 [N], indices into `source_canvases`.

    Raises:
      InputError: a side of an image or of a canvas is not positive.
    """
    sides = np.asarray(_checked_sources(source_canvases), np.int64)
    by_side = np.argsort(sides, kind="stable")
    longest = np.minimum(_checked(sizes).max(axis=(1, 2)), sides.max())
    return by_side[np.searchsorted(sides[by_side], longest)].astype(np.int32)


def _round_quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns floor(numerator / denominator + 1/2) of non-negative integers."""
    return (2 * numerator + denominator) // (2 * denominator)


def _checked(sizes: np.ndarray) -> np.ndarray:
    """Returns `sizes` as int64; raises InputError if a side is not positive."""
    sizes = np.asarray(sizes, np.int64)
    shorter, longer = sizes.min(axis=-1), sizes.max(axis=-1)
    bad = (shorter < 0) | ((shorter == 0) & (longer > 0))
    if bad.any():
        height, width = sizes[bad][0].tolist()
        raise InputError(
            "Expected image sizes of at least 1x1 pixels (or 0x0 for no image), "
            f"received height {height}, width {width}."
        )
    return sizes


def _checked_sources(source_canvases: Sequence[int]) -> Sequence[int]:
    if not len(source_canvases) or min(source_canvases) <= 0:
        raise InputError(
            "Expected sides of square source canvases in pixels, for example "
            f"(640, 1344), received {tuple(source_canvases)}."
        )
    return source_canvases
