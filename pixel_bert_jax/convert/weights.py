"""Reads weight files of other frameworks tensor by tensor, without running their code.

- `.safetensors`, with that library;
- `.bin`, `.pth`, `.pt`, as written by torch, see `pickles.py`;
- `.pkl`, Caffe2's blobs as written by Detectron: its X-152-32x8d is the only published
  CNN of the paper's larger model.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from pixel_bert_jax.convert.pickles import read_caffe2, read_torch
from pixel_bert_jax.convert.tensors import BROKEN, Tensor
from pixel_bert_jax.types import InputError

ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".pkl")
# Names of weights in a folder, in order of preference.
FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"  # suffix of the index of weights that are split over files


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
        return read_caffe2(path) if path.suffix == ".pkl" else read_torch(path)
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
