"""The embedded data set: rendered scenes, made on the fly from a seed.

`world` says what a scene is, `render` draws it, `text` captions it, `oracle` knows what
can be known of it; `source` gives captions, `tasks` questions and statements.
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
