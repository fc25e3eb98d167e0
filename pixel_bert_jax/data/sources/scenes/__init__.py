"""The built-in data set: rendered scenes, generated on the fly from a seed.

`world` defines a scene, `render` draws it, `text` captions it, and `oracle` gives the
best predictions that the scene allows. `source` yields images with captions, `tasks`
questions and statements; `words` is their vocabulary.
"""

from pixel_bert_jax.data.sources.scenes.oracle import (
    SceneOracle,
    oracle_match,
    oracle_words,
)
from pixel_bert_jax.data.sources.scenes.source import ScenesSource, build
from pixel_bert_jax.data.sources.scenes.words import WORD_CLASSES, WORDS
from pixel_bert_jax.data.sources.scenes.world import Scene

__all__ = [
    "WORDS",
    "WORD_CLASSES",
    "Scene",
    "SceneOracle",
    "ScenesSource",
    "build",
    "oracle_match",
    "oracle_words",
]
