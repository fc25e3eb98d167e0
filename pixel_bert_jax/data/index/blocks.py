"""The blocks of an index: raw little-endian arrays, one file each, with checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data import durable
from pixel_bert_jax.types import InputError

REBUILD = "pass --rebuild_index to build it again"


class Block:
    """A block while it is written: its size and hash are computed on the way."""

    def __init__(self, folder: Path, name: str, dtype: str, columns: int = 0):
        self.name = name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._columns = columns
        self._items = 0
        self._digest = hashlib.sha256()
        self._file = (folder / f"{name}.bin").open("wb")

    def append(self, values: Any) -> None:
        """Appends values: any number or, if the block has `columns`, full rows."""
        data = np.ascontiguousarray(values, self._dtype)
        self._items += data.size
        self._digest.update(data.data)
        self._file.write(data.data)

    def finish(self) -> dict[str, Any]:
        """Flushes the file to disk; returns the block's entry for the header."""
        self._file.close()
        durable.flush(Path(self._file.name))
        columns = self._columns
        shape = [self._items // columns, columns] if columns else [self._items]
        digest = self._digest.hexdigest()
        return {"dtype": self._dtype.str, "shape": shape, "sha256": digest}


class Ragged:
    """Two blocks: the concatenated items, of any lengths, and where each starts."""

    def __init__(self, folder: Path, name: str, offsets: str, dtype: str):
        self.data = Block(folder, name, dtype)
        self.offsets = Block(folder, offsets, "int64")
        self.offsets.append([0])
        self._end = 0

    def extend(self, items: Sequence[np.ndarray]) -> None:
        """Appends arrays [n]."""
        if not items:
            return
        ends = self._end + np.cumsum([len(item) for item in items])
        self._end = int(ends[-1])
        self.offsets.append(ends)
        self.data.append(np.concatenate(items))

    def extend_strings(self, strings: Iterable[str]) -> None:
        """Appends strings, as UTF-8."""
        self.extend([np.frombuffer(s.encode(), np.uint8) for s in strings])


def map_block(folder: Path, name: str, block: dict[str, Any]) -> np.ndarray:
    """Returns a block of a folder, memory-mapped.

    Raises:
      InputError: its file is missing or has another size.
    """
    path, shape = folder / f"{name}.bin", tuple(block["shape"])
    dtype = np.dtype(block["dtype"])
    expected = dtype.itemsize * int(np.prod(shape))
    received = os.path.getsize(path) if path.is_file() else -1
    if received != expected:
        raise InputError(
            f"{path}: expected {expected} bytes, received "
            f"{'no file' if received < 0 else received}; {REBUILD}."
        )
    if not expected:  # an empty file cannot be mapped
        return np.zeros(shape, dtype)
    # A plain array over the map, because indexing np.memmap takes microseconds more.
    return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)
