"""Reads pickled weights, torch's and Caffe2's, without running any code in them.

The reader is here because torch (1 GB) is not a dependency and no small library reads
single tensors. The unpickler resolves only the few names that are needed to rebuild
arrays.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from pixel_bert_jax.convert.tensors import Tensor

TORCH_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# First bytes of files of torch before 1.6, from torch.serialization.MAGIC_NUMBER, and
# the version of that format.
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
LEGACY_VERSION = 1001
NESTED = ("state_dict", "model")  # names of the weights in training checkpoints


class _Storage(NamedTuple):
    """Memory of which tensors of a torch file are views."""

    size: int  # elements
    read: Callable[[], np.ndarray]


class _Dtype(NamedTuple):
    """Replaces a storage class of torch."""

    dtype: np.dtype


def _rebuild(
    storage: _Storage, offset: int, shape: Any, stride: Any, *unused: Any
) -> Tensor:
    """Replaces torch._utils._rebuild_tensor_v2 and its predecessor."""
    shape, stride = tuple(map(int, shape)), tuple(map(int, stride))
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if min((*shape, *stride, offset)) < 0 or (
        math.prod(shape) and last >= storage.size
    ):
        raise pickle.UnpicklingError(
            f"a tensor {shape} with strides {stride} from {offset} does not fit its "
            f"{storage.size} elements"
        )

    def read() -> np.ndarray:
        data = storage.read()
        # `as_strided` does not check bounds.
        if data.size != storage.size:
            raise ValueError(f"expected {storage.size} elements, received {data.size}")
        strides = [s * data.itemsize for s in stride]
        data = data[offset:]
        return np.lib.stride_tricks.as_strided(data, shape, strides, writeable=False)

    return Tensor(shape, read)


class _BlobType:
    """Replaces numpy.dtype; supports numeric types only."""

    def __init__(self, name: str, *unused: Any):
        if not re.fullmatch(r"[fiub][1248]", name):
            raise pickle.UnpicklingError(f"an array of type {name!r}, not of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.dtype = self.dtype.newbyteorder("=" if order == "|" else order)


class _Blob:
    """Replaces numpy.ndarray, whose own `__setstate__` trusts the file."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        # The bytes of Python 2 are unpickled as text, see `read_caffe2`.
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        order = "F" if fortran else "C"
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Replaces _codecs.encode, with which Python 3 writes bytes in old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}, expected 'latin1'")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Rebuilds tensors and containers; rejects any name that is not in `names`."""

    def __init__(self, file: Any, names: Mapping[tuple[str, str], Any], **options: Any):
        super().__init__(file, **options)
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a name; see `pickle.Unpickler`."""
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is not part of any weights; such "
                "a file can run code when it is loaded as torch does"
            )
        return self.names[module, name]


TORCH_NAMES = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *unused: tensor,
    **{("torch", n): _Dtype(np.dtype(d)) for n, d in TORCH_DTYPES.items()},
}
# Detectron's files were written by Python 2 with protocol 2.
NUMPY_NAMES = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _BlobType,
    ("numpy", "ndarray"): None,  # only an argument of _reconstruct
    ("numpy.core.multiarray", "_reconstruct"): lambda *unused: _Blob(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *unused: _Blob(),
}


def read_torch(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file that `torch.save` wrote, by name.

    Raises:
      Exception: one of `tensors.BROKEN`; the file is damaged, or not of torch.
    """
    if zipfile.is_zipfile(path):
        content = _zip(path)
    else:
        content = _legacy(path)
    nested = next((n for n in NESTED if isinstance(content.get(n), Mapping)), None)
    tensors = content[nested] if nested else content
    tensors = {n: x for n, x in tensors.items() if isinstance(x, Tensor)}
    if not tensors:
        raise ValueError(f"expected a dict of tensors, or one in {' or '.join(NESTED)}")
    return tensors


def _zip(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    root = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
    if root is None:
        raise ValueError("a zip file without data.pkl")
    folder = root[: -len("data.pkl")]
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError(f"expected little-endian data, received {archive.read(order)}")

    def storage(identity: Any) -> _Storage:
        _, kind, key, _, size = identity[:5]
        name, dtype = f"{folder}data/{key}", kind.dtype
        expected = size * dtype.itemsize
        received = archive.getinfo(name).file_size
        if received != expected:
            raise ValueError(f"{name}: expected {expected} bytes, received {received}")
        return _Storage(size, lambda: np.frombuffer(archive.read(name), dtype))

    with archive.open(root) as file:
        unpickler = _Unpickler(file, TORCH_NAMES)
        unpickler.persistent_load = storage
        return unpickler.load()


def _legacy(path: Path) -> Any:
    """Reads the format before torch 1.6: five pickles, then the memory of each storage.

    The pickles are a magic number, a version, facts of the machine, the content, and
    the storages' keys in the order in which they follow, each as its number of elements
    (int64) and its bytes. See `torch.serialization._legacy_load`.
    """
    storages: dict[str, tuple[int, np.dtype]] = {}
    places: dict[str, int] = {}

    def storage(identity: Any) -> _Storage:
        what, kind, key, *_ = identity
        if what != "storage":  # a class with its source code
            raise pickle.UnpicklingError(f"it holds a {what}, expected tensors alone")
        size, view = identity[4:]
        if view is not None:
            raise pickle.UnpicklingError("a storage that is a part of another one")
        dtype = kind.dtype
        storages[key] = size, dtype
        return _Storage(
            size,
            lambda: np.fromfile(path, dtype, count=size, offset=places[key]),
        )

    with path.open("rb") as file:
        if file.read(len(LEGACY)) != LEGACY:
            raise ValueError("not a file of torch: neither a zip file nor its old form")
        version, machine = (_Unpickler(file, {}).load() for _ in range(2))
        if version != LEGACY_VERSION or not machine["little_endian"]:
            raise ValueError(
                f"expected version {LEGACY_VERSION} in little-endian order, received "
                f"{version} and {machine}"
            )
        unpickler = _Unpickler(file, TORCH_NAMES)
        unpickler.persistent_load = storage
        content = unpickler.load()
        length = path.stat().st_size
        for key in _Unpickler(file, {}).load():
            size, dtype = storages[key]
            received = int.from_bytes(file.read(8), "little")
            places[key] = file.tell()
            end = places[key] + size * dtype.itemsize
            if received != size or end > length:
                raise ValueError(
                    f"storage {key}: expected {size} elements up to byte {end}, "
                    f"received {received} elements in a file of {length} bytes"
                )
            file.seek(end)
    if missing := storages.keys() - places.keys():
        raise ValueError(f"nothing for storage {min(missing)}")
    return content


def read_caffe2(path: Path) -> dict[str, Tensor]:
    """Returns Caffe2's blobs of a pickle, by name.

    Raises:
      Exception: one of `tensors.BROKEN`.
    """
    with path.open("rb") as file:
        content = _Unpickler(file, NUMPY_NAMES, encoding="latin1").load()
    return {
        name: Tensor(blob.array.shape, lambda blob=blob: blob.array)
        for name, blob in content.get("blobs", content).items()
        if isinstance(blob, _Blob)
    }
