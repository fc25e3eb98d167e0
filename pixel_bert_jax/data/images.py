"""Decoding of images to RGB bytes, the same for training and inference.

An image is a pure function of its bytes, on every machine and in every mode. The rules:

* A file that lacks data is refused with a reason: an empty or a cut one, one without
  its end mark. No decoder default fills the rest with grey.
* A JPEG that libjpeg decodes to its end with a warning (extra bytes before a marker, a
  bad Huffman code) is used as every viewer shows it, and the warning is reported: the
  same warnings come with padding that harms nothing and with rows of wrong pixels.
* EXIF orientation is obeyed where photos are one's own (`upright`), and ignored where
  annotations give the raw size.
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
"""EXIF tag: 1 to 8, as the photo is stored turned or mirrored; above 4 on its side."""
MAX_PIXELS = 2**26
"""Pixels an image may have (8192 x 8192, 200 MB of RGB): a header that claims more is
refused before memory is asked for (a "decompression bomb")."""


class ImageError(ValueError):
    """An image that cannot be used; the text is the reason."""


def decode(
    data: bytes | np.ndarray,
    expected: tuple[int, int] | None = None,
    *,
    upright: bool = True,
    report: Callable[[str], None] = warnings.warn,
) -> np.ndarray:
    """Returns the pixels of an image, uint8 RGB [h, w, 3].

    The kind of file is told by its first bytes, never by its name. Grey is repeated,
    CMYK and palettes are converted, alpha is dropped, 16 bits lose their lower 8, of
    an animation the first frame counts.

    Args:
      data: an encoded file, or pixels (which are only checked).
      expected: (height, width) that the annotations give.
      upright: turn the photo as its EXIF orientation says; Pillow turns TIFFs anyway.
      report: called with libjpeg's warning about a file that is used in spite of it.

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
    """Returns the (height, width) that `decode` will give, from a file's header.

    Also looks whether the file ends as it should; one that does not is decoded whole,
    so that a cut file is found now instead of in the middle of a training.

    Raises:
      FileNotFoundError, ...: as `open` raises it.
      ImageError: with the reason.
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
            whole = False  # `decode` says what is wrong, or that nothing is
        if whole:
            return size
        file.seek(0)
        return decode(file.read(), upright=upright, report=lambda text: None).shape[:2]


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns pixels [h, w, 3] as a photo of that EXIF orientation (1 to 8) is seen."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def lay(image: np.ndarray, canvas: np.ndarray) -> tuple[int, int]:
    """Lays an image on the top left of a canvas of zeros, shrunk if it is larger.

    Args:
      image: uint8 [h, w, 3].
      canvas: uint8 [S, S, 3] of zeros, filled in place.

    Returns:
      The (height, width) that the image takes of the canvas.
    """
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


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 if there is none or it makes no sense.

    Of an image that was opened, but not loaded: a TIFF is turned by loading it, and of
    a PNG the pixels would be decoded to look for a block behind them.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever a broken block raises; viewers ignore it, too
        return 1
    return found if found in range(1, 9) else 1


def _ends_well(file: BinaryIO, kind: str | None) -> bool:
    """Whether a file's last bytes are those that end its format, or it has none."""
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
        # libjpeg tells its first warning alone, so the end is looked for as well. A
        # thumbnail in the header has one of its own: that of the last scan counts.
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
                # Pillow is content once all pixels came, checked by a sum or not.
                raise ImageError("the PNG is cut: it has no end mark")
            orientation = _orientation(image) if upright else 1
            if image.mode.startswith("I"):  # 16-bit grey; convert() would clip at 255
                grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
                pixels = np.repeat(grey[:, :, None], 3, axis=2)
            else:
                pixels = np.array(image.convert("RGB"))
            return turn(pixels, orientation)
    except (ImageError, MemoryError):
        raise  # short of memory is the machine's fault, not the file's
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError and more
        head = data[:16].split(b"\n")[0].decode("latin-1")
        raise ImageError(
            f"neither a JPEG nor a whole {', '.join(PILLOW_FORMATS)} (it starts with "
            f"{head!r}): {error}"
        ) from error
