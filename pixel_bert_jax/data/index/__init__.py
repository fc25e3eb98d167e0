"""Sources compiled once into memory-mapped blocks.

`build` writes, `index` reads, `opening` decides which; `blocks` are the files, `faults`
what is missing.
"""

from pixel_bert_jax.data.index.index import Index
from pixel_bert_jax.data.index.opening import build_or_open, is_index

__all__ = ["Index", "build_or_open", "is_index"]
