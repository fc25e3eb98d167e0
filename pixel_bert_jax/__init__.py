"""Pixel-BERT (arXiv 2004.00849) in JAX and Flax.

Importing this package reads no data, imports neither JAX nor TensorFlow and uses no
device. Public names are imported on first use.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_EXPORTS = {
    "BadImageBudgetError": "pixel_bert_jax.types",
    "ImageError": "pixel_bert_jax.data.images",
    "InputError": "pixel_bert_jax.types",
    "Predictor": "pixel_bert_jax.predict.predictor",
    "Pretrained": "pixel_bert_jax.convert.pretrained",
    "from_pretrained": "pixel_bert_jax.convert.pretrained",
    "train_and_evaluate": "pixel_bert_jax.train",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
