"""What an objective is: one file, one line in `objectives/__init__.py`, one test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
from jax import Array

from pixel_bert_jax.models.front_ends import VisualTokens
from pixel_bert_jax.models.pixel_bert import Encoded
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.masking import Vocabulary
from pixel_bert_jax.types import Sums

# Heads bound to their parameters, by name; "word_embedding" gives the shared table.
Heads = Mapping[str, Callable[..., Array]]


class TextSpec(NamedTuple):
    """What a task must know of its texts.

    Attributes:
      vocab_size: V.
      max_text_length: L.
      vocabulary: which tokens can be masked.
      answers: A, the answers that questions can have; 0 if nothing is asked.
    """

    vocab_size: int
    max_text_length: int
    vocabulary: Vocabulary
    answers: int = 0


class Objective(Protocol):
    """A loss on one view of the batch.

    Attributes:
      name: key of `config.objectives`, prefix of its metrics, name of its head.
      view: which of VIEWS it reads.
      reads: "fused", the transformer's output for that view, or "pixels", all visual
        tokens before they meet a text.
      weight: multiplier of its loss.
    """

    name: str
    view: str
    reads: str
    weight: float

    def head(self, model: Mapping[str, Any], text: TextSpec) -> nn.Module:
        """Returns the module that lives under params["heads"][name]."""

    def head_inputs(self, features: int, text: TextSpec) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes of the head's inputs, for its initialisation."""

    def count(self, view: View) -> Array:
        """Returns the scalar that the summed loss is divided by.

        It follows from the view alone, so that it is known for the whole global batch
        before that is split into micro-batches.
        """

    def loss(
        self, heads: Heads, encoded: Encoded | VisualTokens, view: View
    ) -> tuple[Array, Sums]:
        """Returns the summed loss (a scalar) and metrics as sums."""
