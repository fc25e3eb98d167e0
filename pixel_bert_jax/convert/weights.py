"""Reads weight files of other frameworks tensor by tensor, without running their code.

- `.safetensors`, with that library;
- `.bin`, `.pth`, `.pt`, as written by torch since version 1.6. The reader is here
  because torch (1 GB) is not a dependency and no small library reads single tensors;
- `.pkl`, Caffe2's blobs as written by Detectron: its X-152-32x8d is the only published
  CNN of the paper's larger model.

The unpickler resolves only the few names that are needed to rebuild arrays.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from pixel_bert_jax.types import InputError

ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".pkl")
# Names of weights in a folder, in order of preference.
FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"  # suffix of the index of weights that are split over files
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
# First bytes of files of torch before 1.6, from torch.serialization.MAGIC_NUMBER.
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
RESAVE = (
    "a file of torch before 1.6; save it anew where torch is installed: "
    "torch.save(torch.load(OLD, weights_only=True), NEW)"
)
# Exceptions that a damaged file may cause.
BROKEN = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
NESTED = ("state_dict", "model")  # names of the weights in training checkpoints


class Tensor(NamedTuple):
    """A tensor of a file, which `read` loads on demand."""

    shape: tuple[int, ...]
    get: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Returns the array, which may be read-only.

        Raises:
          InputError: the tensor is damaged, or numpy does not have its type.
        """
        try:
            return self.get()
        except BROKEN as error:
            raise InputError(
                f"a tensor {self.shape} cannot be read: {error}"
            ) from error


def open_weights(path: Path) -> dict[str, Tensor]:
    """Returns {name: tensor} of a file, or of a folder that contains one of `FILES`.

    Raises:
      InputError: there are no weights at `path`, or the file is damaged or a pickle
        that refers to code.
    """
    return _folder(path) if path.is_dir() else _file(path)


def _file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"no weights at {path}: neither a file nor a folder")
    if path.suffix not in ENDINGS:
        raise InputError(
            f"{path}: expected a file that ends with {', '.join(ENDINGS)}, received "
            f"{path.suffix or 'no ending'!r}"
        )
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        return _caffe2(path) if path.suffix == ".pkl" else _torch(path)
    except BROKEN as error:
        raise InputError(f"{path} cannot be read as weights: {error}") from error


def _folder(folder: Path) -> dict[str, Tensor]:
    for name in FILES:
        if (folder / name).is_file():
            return _file(folder / name)
        index = folder / (name + INDEX)
        if index.is_file():
            try:
                parts = set(json.loads(index.read_text())["weight_map"].values())
                paths = [folder / Path(part).name for part in sorted(parts)]
            except BROKEN as error:
                raise InputError(f"{index} is damaged: {error!r}") from error
            return {
                key: tensor for path in paths for key, tensor in _file(path).items()
            }
    raise InputError(f"no weights in {folder}: expected one of {', '.join(FILES)}")


def _safetensors(path: Path) -> dict[str, Tensor]:
    file = safe_open(path, framework="numpy", backend="pread")

    def tensor(name: str) -> Tensor:
        shape = tuple(file.get_slice(name).get_shape())
        return Tensor(shape, lambda: file.get_tensor(name))

    return {name: tensor(name) for name in file.keys()}  # noqa: SIM118


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
        # The bytes of Python 2 are unpickled as text, see `_caffe2`.
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


def _torch(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            legacy = file.read(len(LEGACY)) == LEGACY
        raise ValueError(RESAVE if legacy else "it is no zip file, as torch writes")
    content = _zip(path)
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


def _caffe2(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        content = _Unpickler(file, NUMPY_NAMES, encoding="latin1").load()
    return {
        name: Tensor(blob.array.shape, lambda blob=blob: blob.array)
        for name, blob in content.get("blobs", content).items()
        if isinstance(blob, _Blob)
    }
