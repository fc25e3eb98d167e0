"""Strict decoding of images to RGB bytes, the same for training and inference.

An image is either decoded whole and exactly, or refused with a reason: no decoder
default that mends a cut file, rotates by EXIF or takes a faster, different transform.
So an image is a pure function of its bytes, on every machine and in every mode.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from pixel_bert_jax.data import geometry

JPEG_MAGIC = b"\xff\xd8\xff"
PILLOW_FORMATS = ("PNG", "GIF", "BMP", "WEBP", "TIFF")
PNG_END = b"IEND\xaeB`\x82"
MAX_PIXELS = 2**26
"""Pixels an image may have (8192 x 8192, 200 MB of RGB): a header that claims more is
refused before memory is asked for (a "decompression bomb")."""


class ImageError(ValueError):
    """An image that cannot be used; the text is the reason."""


def decode(
    data: bytes | np.ndarray, expected: tuple[int, int] | None = None
) -> np.ndarray:
    """Returns the pixels of an image, uint8 RGB [h, w, 3].

    The kind of file is told by its first bytes, never by its name. Grey is repeated,
    CMYK and palettes are converted, alpha is dropped, 16 bits lose their lower 8, of
    an animation the first frame counts. EXIF orientation is ignored, because
    annotations give the raw size.

    Args:
      data: an encoded file, or pixels (which are only checked).
      expected: (height, width) that the annotations give.

    Raises:
      ImageError: with the reason.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
            raise ImageError(
                f"expected pixels uint8 [h, w, 3], received {data.dtype} "
                f"{list(data.shape)}"
            )
        image = data
    elif not data:
        raise ImageError("the file is empty")
    elif data.startswith(JPEG_MAGIC):
        image = _decode_jpeg(data)
    else:
        image = _decode_other(data)
    if expected is not None and image.shape[:2] != tuple(expected):
        raise ImageError(
            f"expected {expected[1]}x{expected[0]} pixels (width x height) as in the "
            f"annotations, received {image.shape[1]}x{image.shape[0]}"
        )
    return image


def onto_canvas(image: np.ndarray, source: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Lays an image on the top left of a black square, shrinking it if it is larger.

    Args:
      image: uint8 [h, w, 3].
      source: side S of the source canvas, pixels.

    Returns:
      uint8 [S, S, 3] and the (height, width) that the image takes of it.
    """
    canvas = np.zeros((source, source, 3), np.uint8)
    return canvas, lay(image, canvas)


def lay(image: np.ndarray, canvas: np.ndarray) -> tuple[int, int]:
    """Does what `onto_canvas` does in place, on a canvas [S, S, 3] of zeros."""
    height, width = geometry.source_sizes(image.shape[:2], (len(canvas),)).tolist()
    if (height, width) != image.shape[:2]:
        image = shrink(image, (height, width))
    canvas[:height, :width] = image
    return height, width


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes by the triangle filter of `ops/image.py`, widened when shrinking.

    The same two products, rows then columns, but summed over the few non-zero weights
    of a row in a fixed order: much less work than full matrices, and the same bits
    whatever the processor and its matrix library.

    Args:
      image: uint8 [h, w, 3].
      size: (height, width) of the result.

    Returns:
      uint8 [height, width, 3].
    """
    rows = _resize_rows(image.astype(np.float32), size[0])
    both = _resize_rows(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1)
    return np.floor(np.clip(both, 0, 255) + np.float32(0.5)).astype(np.uint8)


def _resize_rows(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes axis 0 of float32 [n, ...] to `size`."""
    index, weight = triangle_taps(len(image), size)
    total = np.zeros((size, *image.shape[1:]), np.float32)
    for tap in range(index.shape[1]):
        total += weight[:, tap, None, None] * image[index[:, tap]]
    return total


def triangle_taps(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which inputs make each output of a resize, and with what weights.

    Output o lies at c = (o + 1/2) n / size - 1/2 (half-pixel centres); input i counts
    max(0, 1 - |i - c| / max(n / size, 1)); weights sum to 1 inside the image.

    Args:
      n: input length, pixels.
      size: output length, pixels.

    Returns:
      index int64 [size, T] and weight float32 [size, T].
    """
    scale = n / size
    width = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale - 0.5
    first = np.floor(centre - width).astype(np.int64) + 1
    index = first[:, None] + np.arange(int(np.ceil(2 * width)) + 1)
    weight = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / width)
    weight[(index < 0) | (index >= n)] = 0.0
    weight /= weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, n - 1), weight.astype(np.float32)


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"the header claims {width}x{height} pixels, more than {MAX_PIXELS:,}"
        )


def _decode_jpeg(data: bytes) -> np.ndarray:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(height, width)
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"not a whole JPEG: {error}") from error


def _decode_other(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            _check_pixels(image.height, image.width)
            if image.format == "PNG" and PNG_END not in data:
                # Pillow is content once all pixels came, checked by a sum or not.
                raise ImageError("the PNG is cut: it has no end mark")
            if image.mode.startswith("I"):  # 16-bit grey; convert() would clip at 255
                grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except (ImageError, MemoryError):
        raise  # short of memory is the machine's fault, not the file's
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError and more
        head = data[:16].split(b"\n")[0].decode("latin-1")
        raise ImageError(
            f"neither a JPEG nor a whole {', '.join(PILLOW_FORMATS)} (it starts with "
            f"{head!r}): {error}"
        ) from error
