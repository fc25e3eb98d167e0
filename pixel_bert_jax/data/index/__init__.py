"""Sources compiled once into memory-mapped blocks: `build` writes, `index` reads."""

from pixel_bert_jax.data.index.index import Index, build_or_open

__all__ = ["Index", "build_or_open"]
