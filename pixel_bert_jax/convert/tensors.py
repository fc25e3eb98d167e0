"""A tensor of a weight file, read on demand."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError

from pixel_bert_jax.types import InputError

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
