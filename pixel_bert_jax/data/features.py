"""Features that a frozen CNN computed once, on disk.

The features of a photo are a function of its bytes, of the size that it is resized to
and of the CNN. A folder holds those of one CNN, whose name is a hash of all that they
depend on besides the photo; in it, each photo has a file of its own, whose name is a
hash of the photo and its size:

    FOLDER/CNN/about.json             what the name CNN is a hash of
    FOLDER/CNN/ab/abcdef...-7x7.bin   SHA-256 of the rest, then [h, w, C] in C order

Files are written whole or not at all, by any number of processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pixel_bert_jax.data import durable
from pixel_bert_jax.data.images import ImageError
from pixel_bert_jax.types import InputError

ABOUT = "about.json"
HASH = 32  # bytes of SHA-256
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}


class FeatureStore:
    """The folder of one CNN's features.

    Attributes:
      stride: pixels per cell; n pixels give ceil(n / stride) cells.
      channels: C.
      dtype: dtype of the features.
      folder: where they are.
    """

    def __init__(
        self,
        root: Path,
        about: Mapping[str, Any],
        *,
        stride: int,
        channels: int,
        dtype: str,
    ):
        """Opens or creates the folder.

        Args:
          root: folder of all CNNs' features.
          about: JSON values of everything that features depend on besides the photo.
          stride: pixels per cell.
          channels: channels of a cell.
          dtype: a key of DTYPES.

        Raises:
          InputError: the folder cannot be written, or is that of something else.
        """
        self.stride, self.channels, self.dtype = stride, channels, DTYPES[dtype]
        text = json.dumps({**about, "dtype": dtype}, indent=1, sort_keys=True) + "\n"
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:20]
        file = self.folder / ABOUT
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                durable.write(file, text)
            found = file.read_text()
        except OSError as error:
            raise InputError(
                f"features cannot be kept in {root}: {error}; "
                "data.feature_dir names another folder"
            ) from error
        if found != text:
            raise InputError(
                f"{self.folder} holds features of another CNN: its {ABOUT} is not what "
                "its name says; remove the folder to compute them anew"
            )

    def grid(self, sizes: np.ndarray) -> np.ndarray:
        """Returns the cells [..., 2] of sizes or of a canvas in pixels [..., 2]."""
        return -(-np.asarray(sizes) // self.stride)

    def name(self, photo: bytes | np.ndarray, size: np.ndarray, upright: bool) -> str:
        """Returns the name of a photo's features.

        Args:
          photo: its file, or its pixels.
          size: (height, width) in pixels that it is resized to.
          upright: whether its EXIF orientation is applied.
        """
        found = hashlib.sha256(f"{tuple(map(int, size))} {upright} ".encode())
        if isinstance(photo, np.ndarray):
            found.update(f"{photo.dtype} {photo.shape} ".encode())
            photo = photo.tobytes()
        found.update(photo)
        height, width = self.grid(size).tolist()
        return f"{found.hexdigest()}-{height}x{width}"

    def has(self, name: str) -> bool:
        """Returns whether a photo's features are there.

        Raises:
          InputError: they are, and damaged.
        """
        path = self._path(name)
        try:
            received = path.stat().st_size
        except FileNotFoundError:
            return False
        expected = HASH + self._bytes(name)
        if received != expected:
            raise InputError(
                f"features {path} are damaged: {received} bytes, expected {expected}; "
                "remove the file to compute them anew"
            )
        return True

    def write(self, name: str, features: np.ndarray) -> None:
        """Writes a photo's features [h, w, C].

        Raises:
          OSError: they cannot be written.
        """
        content = np.ascontiguousarray(features, self.dtype).tobytes()
        path = self._path(name)
        path.parent.mkdir(exist_ok=True)
        # What a power failure damages is noticed by its hash.
        content = hashlib.sha256(content).digest() + content
        durable.write(path, content, flushed=False)

    def read(self, name: str) -> np.ndarray:
        """Returns a photo's features [h, w, C].

        Raises:
          InputError: they are missing or damaged.
        """
        path = self._path(name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"features cannot be read: {error}") from error
        features = memoryview(content)[HASH:]
        if hashlib.sha256(features).digest() != content[:HASH]:
            raise InputError(
                f"features {path} are damaged: their SHA-256 is not the one in the "
                "file; remove it to compute them anew"
            )
        return np.frombuffer(features, self.dtype).reshape(*_cells(name), -1)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.bin"

    def _bytes(self, name: str) -> int:
        height, width = _cells(name)
        return height * width * self.channels * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class PhotoFeatures:
    """The features of an index's photos.

    Attributes:
      store: where they are.
      names: image row of the index -> name in the store.
      failed: image row -> why the photo has none.
    """

    store: FeatureStore
    names: Mapping[int, str]
    failed: Mapping[int, str]

    def read(self, row: int) -> np.ndarray:
        """Returns the features [h, w, C] of an image row.

        Raises:
          ImageError: the photo is missing or broken.
          InputError: the features are missing or damaged.
        """
        if row in self.failed:
            raise ImageError(self.failed[row])
        return self.store.read(self.names[row])


def _cells(name: str) -> tuple[int, int]:
    height, width = name.rpartition("-")[2].split("x")
    return int(height), int(width)
