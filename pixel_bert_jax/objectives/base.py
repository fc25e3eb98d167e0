"""The interface of objectives: each is one file and one line in `objectives`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sized
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.config import Model
from pixel_bert_jax.data.targets import Targets
from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.masking import Vocabulary
from pixel_bert_jax.types import Params


class TextSpec(NamedTuple):
    """What a task needs to know of its texts.

    Attributes:
      vocab_size: V.
      max_text_length: L.
      vocabulary: which tokens can be masked, and by what.
      answers: A, size of the answer vocabulary; 0 if the texts are no questions.
    """

    vocab_size: int
    max_text_length: int
    vocabulary: Vocabulary
    answers: int = 0

    @classmethod
    def of(
        cls, tokenizer: WordPiece, max_text_length: int, answers: Sized | None
    ) -> TextSpec:
        """Returns what a task needs to know of a tokenizer and an answer vocabulary."""
        vocabulary = Vocabulary(
            special_ids=tuple(int(i) for i in tokenizer.special_ids),
            mask_id=tokenizer.mask_id,
            replacement_ids=tokenizer.replacement_ids,
            is_continuation=tokenizer.is_continuation,
        )
        classes = 0 if answers is None else len(answers)
        return cls(tokenizer.vocab_size, max_text_length, vocabulary, classes)


class Heads:
    """The heads of a model bound to its variables: `heads["itm"](pooled)`.

    Attributes:
      word_embedding: [V, D], the table that heads may be tied to.
    """

    def __init__(self, apply: Callable[..., Any], word_embedding: Array):
        """Keeps the arguments.

        Args:
          apply: (method of `PixelBert`, *inputs) -> its result.
          word_embedding: [V, D].
        """
        self._apply, self.word_embedding = apply, word_embedding

    def __getitem__(self, name: str) -> Callable[..., Array]:
        """Returns the head of the objective `name`."""
        return lambda *inputs: self._apply(PixelBert.head, name, *inputs)


class Inputs(NamedTuple):
    """What a loss reads; all of one micro-batch.

    Attributes:
      view: the objective's view.
      passes: results of the passes that the objective needs, by name.
      heads: the model's heads.
      carried: the objective's own carried state, {} if it has none.
      share: gives every device of the mesh the whole of an array, for losses that
        compare examples of different devices. Texts are to be shared, never pixels,
        which are many times larger.
    """

    view: View
    passes: Mapping[str, Any]
    heads: Heads
    carried: Params
    share: Callable[[Array], Array] = lambda x: x


class Loss(NamedTuple):
    """What a loss returns for one micro-batch.

    Attributes:
      total: the summed loss, a scalar.
      count: number of terms of `total`; added over micro-batches it equals
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
    """A loss on one view of the batch; its fields are set by `config.objectives.NAME`.

    Attributes:
      weight: multiplier of the loss.
      name: key of `config.objectives`, prefix of its metrics, name of its head.
      view: key in VIEWS of the view that it reads; a field where there is a choice.
      views: values that the view may have; (): any.
      needs: names of the passes (`tasks/passes.py`) whose results it reads.
      images: M, images that belong to each text; None: any number.
      negatives: texts of other images that the plan puts behind each text; None: any
        number, as it reads those that belong to the image alone.
      asks: whether its texts are questions, so that an answer vocabulary is made.
      whole_batch: whether its loss relates examples of the batch to each other, so
        that it would change if the batch were split into micro-batches.
      inherits: path of a parameter of its head -> (path of a parameter of another
        head, function of that array), to start from a model trained without it.
    """

    weight: float
    name: ClassVar[str]
    view: ClassVar[str] = "clean"
    views: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("fused",)
    images: ClassVar[int | None] = 1
    negatives: ClassVar[int | None] = 0
    asks: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    inherits: ClassVar[Mapping[str, tuple[str, Callable[[Any], Any]]]] = (
        MappingProxyType({})
    )

    def head(self, model: Model, text: TextSpec) -> nn.Module | None:
        """Returns the head, whose parameters are params/heads/NAME, or None."""
        del model, text
        return None

    def targets(self, answers: AnswerVocabulary | None) -> Targets | None:
        """Returns what makes arrays from the texts' annotations, or None."""
        del answers
        return None

    def count(self, view: View) -> Array:
        """Returns the divisor of the summed loss, by default the number of texts.

        It depends on the view alone, so that it is known for the whole global batch
        before that is split into micro-batches.
        """
        return jnp.sum(view.mask.astype(jnp.float32))

    def loss(self, inputs: Inputs) -> Loss:
        """Returns the summed loss of a micro-batch."""
        raise NotImplementedError

    def carried(self, model: Model, text: TextSpec, params: Params) -> Params:
        """Returns the carried state before the first step.

        Args:
          model: `config.model`.
          text: sizes of the task's texts.
          params: initial parameters. A copy that keeps their paths is sharded as they
            are; everything else is replicated.
        """
        del model, text, params
        return {}

    def carry(self, carried: Params, updates: Params, params: Params) -> Params:
        """Returns the carried state after a step; not called if the step is skipped.

        Args:
          carried: carried state before the step.
          updates: `Loss.updates` of the A micro-batches, stacked: [A, ...].
          params: parameters after the step.
        """
        del updates, params
        return carried
