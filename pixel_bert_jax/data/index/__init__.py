"""Sources compiled once into memory-mapped blocks.

`build` writes an index, `index` reads it, and `opening` builds it if needed. `blocks`
are its files, `faults` reports images that were left out and unknown words.
"""

from pixel_bert_jax.data.index.index import Index
from pixel_bert_jax.data.index.opening import build_or_open, is_index

__all__ = ["Index", "build_or_open", "is_index"]
