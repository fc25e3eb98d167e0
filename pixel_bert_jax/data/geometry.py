"""Sizes of images: target size, canvas and source canvas, in exact integers.

Pixel-BERT resizes an image so that its shorter side is 800 and its longer side at
most 1333 (arXiv 2004.00849, section 4.2), then feeds it whole. XLA wants few static
shapes, so a resized image is laid on the smallest of a few *canvases*, and the
original pixels travel to the device on a square *source canvas*. Training,
evaluation and inference take all their sizes from here, so that they cannot differ.

Every size and every canvas is (height, width); only configs and messages write
"WIDTHxHEIGHT". Rounding is floor(x + 1/2) of the exact quotient, never of a float:
the numbers are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_bert_jax.types import InputError

Size = tuple[int, int]

MINIMUM_SIDE = 64
"""Shortest target side. A stride-64 network still gets one cell from it."""


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
    """Returns "WIDTHxHEIGHT" of a canvas (height, width); undoes `parse_canvas`."""
    height, width = canvas
    return f"{width}x{height}"


def target_sizes(
    sizes: np.ndarray, short: int, long: int, minimum: int = MINIMUM_SIDE
) -> np.ndarray:
    """Returns the sizes that images are resized to, int32 [..., 2] (height, width).

    scale = min(short / min(h, w), long / max(h, w)), sides floor(side * scale + 1/2).
    So the shorter side never exceeds `short` and the longer never exceeds `long`. A
    side below `minimum` is raised to it, which stretches only images more elongated
    than long : minimum (1x1000 pixels become 64x1333) and, as minimum <= short, breaks
    neither bound: canvases that hold short x long and long x short hold everything.
    A size of (0, 0) marks a hole and stays (0, 0).

    Args:
      sizes: integers [..., 2], (height, width) in pixels.
      short: wanted shorter side, pixels.
      long: greatest longer side, pixels.
      minimum: least side, pixels.

    Raises:
      InputError: not 0 < minimum <= short <= long, or a side is not positive.
    """
    if not 0 < minimum <= short <= long:
        raise InputError(
            "Expected 0 < minimum <= short <= long for the target size, received "
            f"minimum={minimum}, short={short}, long={long}."
        )
    sizes = _checked(sizes)
    shorter = sizes.min(axis=-1, keepdims=True)
    longer = sizes.max(axis=-1, keepdims=True)
    hole = longer == 0
    by_short = short * longer <= long * shorter  # short/shorter <= long/longer
    numerator = np.where(by_short, short, long)
    denominator = np.where(by_short, shorter, longer) + hole
    targets = _round_quotient(sizes * numerator, denominator)
    return np.where(hole, 0, np.maximum(targets, minimum)).astype(np.int32)


def choose_canvas(targets: np.ndarray, canvases: Sequence[Size]) -> np.ndarray:
    """Returns the index of the canvas with the smallest area that holds all M images.

    It depends on the images of the unit alone, so batch mates never change a result.
    Between canvases of equal area the first listed wins. A square canvas is hence
    reached only by units that mix wide and tall images (M > 1).

    Args:
      targets: int [U, M, 2] (height, width) of resized images; (0, 0) fits anywhere.
      canvases: (height, width) each.

    Returns:
      int32 [U].

    Raises:
      InputError: no canvas is given, or none holds some unit.
    """
    if not len(canvases):
        raise InputError("Expected at least one canvas, received none.")
    needed = np.asarray(targets).max(axis=1)  # [U, 2]
    table = np.asarray(canvases, np.int64)
    by_area = np.argsort(table.prod(axis=1), kind="stable")
    chosen = np.full(len(needed), -1, np.int32)
    # From large to small, so that the smallest that fits is written last.
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
    """Returns the sizes of images once they lie on their source canvas.

    An image with a side above the largest source canvas S is shrunk once, at decode,
    by S / max(h, w) with sides floor(x + 1/2), at least 1; others keep their size.
    Targets are always computed from the *original* size, which keeps its aspect.

    Args:
      sizes: integers [..., 2] (height, width) of the original files; (0, 0) stays.
      source_canvases: sides of the square source canvases, pixels.

    Returns:
      int32 [..., 2].
    """
    largest = max(_checked_sources(source_canvases))
    sizes = _checked(sizes)
    longer = sizes.max(axis=-1, keepdims=True)
    shrunk = np.maximum(_round_quotient(sizes * largest, np.maximum(longer, 1)), 1)
    return np.where(longer > largest, shrunk, sizes).astype(np.int32)


def choose_source(sizes: np.ndarray, source_canvases: Sequence[int]) -> np.ndarray:
    """Returns the index of the smallest source canvas that holds all M images.

    Args:
      sizes: integers [U, M, 2] (height, width), original or after `source_sizes`:
        the answer is the same.
      source_canvases: sides of the square source canvases, pixels, in any order.

    Returns:
      int32 [U], index into `source_canvases`.
    """
    sides = np.asarray(_checked_sources(source_canvases), np.int64)
    by_side = np.argsort(sides, kind="stable")
    longest = np.minimum(_checked(sizes).max(axis=(1, 2)), sides.max())
    return by_side[np.searchsorted(sides[by_side], longest)].astype(np.int32)


def _round_quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """floor(numerator / denominator + 1/2) of non-negative integers, exactly."""
    return (2 * numerator + denominator) // (2 * denominator)


def _checked(sizes: np.ndarray) -> np.ndarray:
    """Returns `sizes` as int64 after checking that they are sizes or holes."""
    sizes = np.asarray(sizes, np.int64)
    bad = (sizes.min(axis=-1) <= 0) & (sizes.max(axis=-1) != 0)
    bad |= sizes.min(axis=-1) < 0
    if bad.any():
        height, width = sizes[bad][0].tolist()
        raise InputError(
            "Expected image sizes of at least 1x1 pixels (or 0x0 for a hole), "
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
