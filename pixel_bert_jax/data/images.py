"""Decoding of images to RGB bytes, the same for training and inference.

The pixels of an image depend only on the bytes of its file. The rules:

* A file that lacks data is refused with a reason: an empty or truncated file, or one
  without an end marker. Decoders would fill the rest with grey.
* A JPEG that libjpeg decodes to its end with a warning (extra bytes before a marker, a
  bad Huffman code) is used as every viewer shows it, and the warning is reported: the
  same warning is given for harmless padding and for rows of wrong pixels.
* EXIF orientation is applied to a user's own photos (`upright`), and ignored where
  annotations refer to the pixels as stored.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image

from pixel_bert_jax.data import geometry

JPEG_MAGIC = b"\xff\xd8\xff"
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"
PILLOW_FORMATS = ("PNG", "GIF", "BMP", "WEBP", "TIFF")
PNG_END = b"IEND\xaeB`\x82"
ORIENTATION = 0x0112
"""EXIF tag with values 1 to 8; above 4, height and width are exchanged."""
MAX_PIXELS = 2**26
"""Greatest number of pixels (8192 x 8192, 200 MB of RGB). An image whose header claims
more (a "decompression bomb") is refused before memory is allocated."""


# Ends of the names of image files, in small letters.
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")


class ImageError(ValueError):
    """An image cannot be used; the message is the reason."""


def decode(
    data: bytes | np.ndarray,
    expected: tuple[int, int] | None = None,
    *,
    upright: bool = True,
    report: Callable[[str], None] = warnings.warn,
) -> np.ndarray:
    """Returns the pixels of an image, uint8 RGB [h, w, 3].

    The format is that of the first bytes, not of the file's name. Grey is repeated,
    CMYK and palettes are converted, alpha is dropped, 16-bit grey loses its lower 8
    bits, and of an animation the first frame is used.

    Args:
      data: an encoded file, or pixels (which are only checked).
      expected: (height, width) in pixels that the annotations give.
      upright: apply the EXIF orientation; Pillow applies that of TIFFs in any case.
      report: called with libjpeg's warning if the image is used despite a warning.

    Raises:
      ImageError: the image is damaged, of another format or of another size.
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
        image = _decode_jpeg(data, report)
        if upright:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as opened:
                image = turn(image, _orientation(opened))
    else:
        image = _decode_other(data, upright)
    if expected is not None and image.shape[:2] != tuple(expected):
        raise ImageError(
            f"expected {expected[1]}x{expected[0]} pixels (width x height) as in the "
            f"annotations, received {image.shape[1]}x{image.shape[0]}"
        )
    return image


def measure(path: Path, *, upright: bool) -> tuple[int, int]:
    """Returns the (height, width) in pixels of what `decode` returns, from the header.

    A file whose end marker is missing is decoded, so that a truncated file is found now
    instead of during training.

    Args:
      path: the image file.
      upright: as in `decode`.

    Raises:
      OSError: the file cannot be opened or read.
      ImageError: the image cannot be used.
    """
    with path.open("rb") as file:
        try:
            image = Image.open(file, formats=("JPEG", *PILLOW_FORMATS))
            size = image.height, image.width
            _check_pixels(*size)
            if upright and _orientation(image) > 4:
                size = size[::-1]
            whole = _ends_well(file, image.format)
        except (
            OSError,
            ImageError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ):
            whole = False  # `decode` raises the reason, if the file is damaged
        if whole:
            return size
        file.seek(0)
        return decode(file.read(), upright=upright, report=lambda text: None).shape[:2]


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (1 to 8) to pixels [h, w, 3]."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def to_rgb(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a PIL image, uint8 RGB [h, w, 3], as `decode` does."""
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip it at 255
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def lay(image: np.ndarray, canvas: np.ndarray) -> tuple[int, int]:
    """Lays an image on the top left of a canvas of zeros, shrunk if it is larger.

    Args:
      image: uint8 [h, w, 3].
      canvas: uint8 [S, S, 3] of zeros, filled in place.

    Returns:
      (height, width) in pixels of the image on the canvas.
    """
    height, width = geometry.source_sizes(image.shape[:2], (len(canvas),)).tolist()
    if (height, width) != image.shape[:2]:
        image = shrink(image, (height, width))
    canvas[:height, :width] = image
    return height, width


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes by the triangle filter of `ops/image.py`, widened when shrinking.

    Like there, rows are resized first, then columns. Only the few non-zero weights of a
    row are summed, in a fixed order: this is faster than a product of full matrices,
    and the result does not depend on the processor or the matrix library.

    Args:
      image: uint8 [h, w, 3].
      size: (height, width) of the result, pixels.

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
    """Returns the inputs and weights of each output of a resize along one axis.

    Output o lies at c = (o + 1/2) n / size - 1/2 (half-pixel centres); input i has the
    weight max(0, 1 - |i - c| / max(n / size, 1)). The weights inside the image are
    normalised to sum to 1.

    Args:
      n: input length, pixels.
      size: output length, pixels.

    Returns:
      index int64 [size, T] and weight float32 [size, T] of the T inputs of each output.
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


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image that is opened but not loaded.

    It is 1 if there is none or it is invalid, for a TIFF, which Pillow turns when it is
    loaded, and for a PNG without EXIF data before its pixels: looking for data behind
    them would decode them.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data raises various errors; viewers ignore it
        return 1
    return found if found in range(1, 9) else 1


def _ends_well(file: BinaryIO, kind: str | None) -> bool:
    """Returns whether a file ends with the end marker of its format, if it has one."""
    mark = {"JPEG": JPEG_END, "PNG": PNG_END}.get(kind or "", b"")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - len(mark), 0))
    return file.read() == mark


def _decode_jpeg(data: bytes, report: Callable[[str], None]) -> np.ndarray:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(height, width)
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ImageError:
        raise
    except ValueError as error:
        # Only libjpeg's first warning is known, so the end marker is checked, too. A
        # thumbnail in the header has its own: look behind the start of the last scan.
        text = str(error)
        if "remature end" in text or JPEG_END not in data[data.rfind(JPEG_SCAN) :]:
            raise ImageError(f"not a whole JPEG: {text}") from error
        try:
            image = simplejpeg.decode_jpeg(data, "RGB", strict=False)
        except ValueError as failed:
            raise ImageError(f"not a whole JPEG: {failed}") from failed
        report(f"decoded as every viewer shows it, with libjpeg's warning: {text}")
        return image


def _decode_other(data: bytes, upright: bool) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            _check_pixels(image.height, image.width)
            if image.format == "PNG" and PNG_END not in data:
                # Pillow accepts it if the pixels are complete, without a checksum.
                raise ImageError("the PNG is cut: it has no end mark")
            orientation = _orientation(image) if upright else 1
            return turn(to_rgb(image), orientation)
    except (ImageError, MemoryError):
        raise  # a lack of memory is not the fault of the file
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError and more
        head = data[:16].split(b"\n")[0].decode("latin-1")
        raise ImageError(
            f"neither a JPEG nor a whole {', '.join(PILLOW_FORMATS)} (it starts with "
            f"{head!r}): {error}"
        ) from error
