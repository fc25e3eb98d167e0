"""What an objective is: one file, one line in `objectives/__init__.py`, one test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.config import Model
from pixel_bert_jax.data.targets import Targets
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.masking import Vocabulary
from pixel_bert_jax.types import Params


class TextSpec(NamedTuple):
    """What a task must know of its texts.

    Attributes:
      vocab_size: V.
      max_text_length: L.
      vocabulary: which tokens can be masked.
      answers: A, the answers that questions can have; 0 if no question is asked.
    """

    vocab_size: int
    max_text_length: int
    vocabulary: Vocabulary
    answers: int = 0


class Heads:
    """The heads of a model bound to its variables: `heads["itm"](pooled)`.

    Attributes:
      word_embedding: [V, D], the table that heads may be tied to.
    """

    def __init__(self, apply: Callable[..., Any], word_embedding: Array):
        """Keeps both.

        Args:
          apply: applies a method of `PixelBert`.
          word_embedding: [V, D].
        """
        self._apply, self.word_embedding = apply, word_embedding

    def __getitem__(self, name: str) -> Callable[..., Array]:
        """Returns the head of the objective `name`."""
        return lambda *inputs: self._apply(PixelBert.head, name, *inputs)


class Inputs(NamedTuple):
    """What a loss reads, of one micro-batch.

    Attributes:
      view: the objective's view.
      passes: results of the passes that the objective needs, by name.
      heads: of the model.
      carried: the objective's own carried state, {} if it has none.
    """

    view: View
    passes: Mapping[str, Any]
    heads: Heads
    carried: Params


class Loss(NamedTuple):
    """What a loss returns, of one micro-batch.

    Attributes:
      total: the summed loss, a scalar.
      count: what `total` is a sum over; added over micro-batches it is
        `Objective.count` of the whole batch.
      metrics: further metrics as sums, by name.
      updates: arrays for `Objective.carry`.
    """

    total: Array
    count: Array
    metrics: Mapping[str, tuple[Any, Any]] = MappingProxyType({})
    updates: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss on one view of the batch. Fields are those of `config.objectives.NAME`.

    Attributes:
      weight: multiplier of its loss.
      name: key of `config.objectives`, prefix of its metrics, name of its head.
      view: which of VIEWS it reads.
      needs: names of the passes (`tasks/passes.py`) whose results it reads.
      images: M, images that belong to each text.
      negatives: texts of other images that the plan puts behind each text.
      asks: whether its texts are questions, for which an answer vocabulary is made.
      whole_batch: whether its loss relates examples of the batch with each other, so
        that it is another one when the batch is split into micro-batches.
      inherits: path of a parameter of its head -> (path of a parameter of another
        head, function of that array), for a model that was trained without it.
    """

    weight: float
    name: ClassVar[str]
    view: ClassVar[str] = "clean"
    needs: ClassVar[tuple[str, ...]] = ("fused",)
    images: ClassVar[int] = 1
    negatives: ClassVar[int] = 0
    asks: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    inherits: ClassVar[Mapping[str, tuple[str, Callable[[Any], Any]]]] = (
        MappingProxyType({})
    )

    def head(self, model: Model, text: TextSpec) -> nn.Module | None:
        """Returns the module that lies under params/heads/NAME, None for no head."""
        del model, text
        return None

    def targets(self, answers: AnswerVocabulary | None) -> Targets | None:
        """Returns what makes arrays of the texts' annotations, None if none is read."""
        del answers
        return None

    def count(self, view: View) -> Array:
        """Returns the scalar that the summed loss is divided by: of texts, by default.

        It follows from the view alone, so that it is known for the whole global batch
        before that is split into micro-batches.
        """
        return jnp.sum(view.mask.astype(jnp.float32))

    def loss(self, inputs: Inputs) -> Loss:
        """Returns the summed loss of a micro-batch."""
        raise NotImplementedError

    def carried(self, model: Model, text: TextSpec, params: Params) -> Params:
        """Returns the state that it carries from step to step, before the first one.

        Args:
          model: `config.model`.
          text: of the task.
          params: initial parameters. A copy that keeps their paths is sharded as they
            are; all else is replicated.
        """
        del model, text, params
        return {}

    def carry(self, carried: Params, updates: Params, params: Params) -> Params:
        """Returns the carried state after a step; not called if the step is skipped.

        Args:
          carried: before the step.
          updates: of `Loss`, those of the A micro-batches stacked: [A, ...].
          params: after the step.
        """
        del updates, params
        return carried
