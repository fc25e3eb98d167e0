"""Converts paths, bytes, PIL images and arrays to the pixels that a model reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pixel_bert_jax.data import images
from pixel_bert_jax.data.images import ImageError

FILE_TYPES = (str, os.PathLike, bytes, bytearray, memoryview)
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def to_pixels(photos: Any) -> list[np.ndarray]:
    """Returns the pixels of a photo or of each of several, uint8 RGB [h, w, 3].

    A photo is one of
      - the path of an image file, or its bytes: decoded by `images.decode`, as training
        images are;
      - a PIL image: rotated by its EXIF orientation, then converted to RGB; alpha is
        dropped, and 16-bit grey loses its lower 8 bits;
      - an array [h, w] or [h, w, 1] (grey), [h, w, 3] (RGB) or [h, w, 4] (RGBA; alpha
        is dropped), either uint8 or floats from 0 (black) to 1 (white).

    Raises:
      ImageError: a photo is none of these or cannot be read.
    """
    if is_single(photos):
        return [_pixels(photos)]
    out = []
    for number, photo in enumerate(photos):
        try:
            out.append(_pixels(photo))
        except ImageError as error:
            raise ImageError(f"photos[{number}]: {error}") from error
    return out


def is_single(photos: Any) -> bool:
    """Returns whether it is one photo, not several; see `to_pixels`."""
    single = isinstance(photos, (*FILE_TYPES, Image.Image))
    single |= hasattr(photos, "__array__") and np.ndim(photos) <= 3
    return single or not isinstance(photos, Iterable)


def _pixels(photo: Any) -> np.ndarray:
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return images.decode(bytes(photo))
    if isinstance(photo, (str, os.PathLike)):
        return images.decode(_read(photo))
    if isinstance(photo, Image.Image):
        return _from_pil(photo)
    if hasattr(photo, "__array__"):
        return _from_array(np.asarray(photo))
    raise ImageError(
        "expected the path or the bytes of an image file, a PIL image or an array, "
        f"received {type(photo).__name__}"
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    # ValueError: a null byte in the path; RuntimeError: "~" of nobody.
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"it cannot be read: {error}") from error


def _from_pil(image: Image.Image) -> np.ndarray:
    if image.width * image.height > images.MAX_PIXELS:
        raise ImageError(
            f"expected at most {images.MAX_PIXELS:,} pixels, received a PIL image of "
            f"{image.width}x{image.height}"
        )
    if image.mode == "F":
        raise ImageError("a PIL image of floats (mode F); expected one of integers")
    try:
        return _from_array(images.to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError) as error:  # Pillow reads files lazily
        raise ImageError(f"the PIL image cannot be read: {error}") from error


def _from_array(array: np.ndarray) -> np.ndarray:
    shape = array.shape
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS or not array.size:
        last = "; channels come last" if shape[:1] in {(n,) for n in CHANNELS} else ""
        raise ImageError(
            "expected an array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], received "
            f"{list(shape)}{last}"
        )
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise ImageError(
                f"expected floats from 0 to 1, received {low:g} to {high:g}"
            )
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(
            f"expected an array of uint8, or of floats from 0 to 1, received "
            f"{array.dtype}"
        )
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])
