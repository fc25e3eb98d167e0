"""The interface of evaluators, which run predict functions over a held-out stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
from jax import Array

from pixel_bert_jax import trees
from pixel_bert_jax.config import Eval
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.pipeline import Step
from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.metrics import ERROR
from pixel_bert_jax.types import Batch, InputError, Params

MARK = "@missing"  # ends the names of metrics of fewer examples than there are
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an evaluator may need besides a stream.

    Attributes:
      tokenizer: the model's tokenizer.
      answers: the model's answer vocabulary, None if texts are no questions.
      options: `config.eval` with the evaluator's own fields.
      heads: the objectives whose heads the model has, by name.
      plan: identity of the examples in the stream and of how they are computed.
      folder: keeps partial results of a long evaluation, to resume from; None: keep
        nothing.
    """

    tokenizer: WordPiece
    answers: AnswerVocabulary | None
    options: Eval
    heads: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plan: str = ""
    folder: Path | None = None


class Predict(Protocol):
    """Runs predict functions of a task, each compiled once per shape."""

    def __call__(
        self, name: str, variables: Params, step: Step
    ) -> dict[str, np.ndarray]:
        """Runs a predict function on a step of a stream and returns host arrays."""

    def place(self, step: Step) -> Batch:
        """Puts a step of a stream onto the devices and resizes its images there."""

    def run(self, name: str, variables: Params, batch: Batch) -> dict[str, Array]:
        """Runs a predict function on arrays [G, ...]; results stay on the devices.

        They may have more than G rows: those beyond the first G are padding.
        """


class Evaluator:
    """Turns predictions into metrics named CORPUS/METRIC.

    Attributes:
      partners: whether examples come with another image and a text of another image.
      whole_sets: whether all texts of an image set come together, so that each image
        comes once.
      needs_all: whether metrics of fewer examples would mean something else, so that
        missing images are refused; otherwise they are counted, see `marked`.
      needs: names of objectives; the model needs the head of at least one of them.
      metrics: patterns of metric names, without the corpus; see `patterns`.
      suffix: end of the name of a file of predictions.
    """

    partners: ClassVar[bool] = False
    whole_sets: ClassVar[bool] = False
    needs_all: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ""

    def __init__(self, settings: Settings):
        """Keeps the settings.

        Raises:
          InputError: the model has none of the heads in `needs`.
        """
        if not set(self.needs) & set(settings.heads):
            raise InputError(
                f"{type(self).__name__} needs a model with the objective "
                f"{' or '.join(self.needs)}; it has {', '.join(settings.heads)}"
            )
        self.settings = settings
        # Values of every example, by metric; filled by `run`.
        self.examples: dict[str, Values] = {}

    def check(self, index: Index) -> None:
        """Finds faults of an index before anything is compiled.

        Raises:
          InputError: the index cannot be evaluated.
        """

    def scored(self, metric: str, values: Values) -> Iterator[tuple[str, float]]:
        """Yields a metric and its standard error, and keeps the examples' values."""
        self.examples[metric] = values
        mean, error = values.mean()
        yield metric, mean
        yield metric + ERROR, error

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields (metric, value) after reading every example of the stream once.

        A mean over examples is followed by its standard error, named METRIC_se.
        """
        raise NotImplementedError

    @classmethod
    def patterns(cls, index: Index) -> tuple[str, ...]:
        """Returns patterns of the names of all metrics that an index can give."""
        del index
        return cls.metrics

    @classmethod
    def writes(cls) -> bool:
        """Returns whether predictions have an official file format."""
        return cls.write is not Evaluator.write

    def predictions(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> list[Any]:
        """Returns the predictions for each corpus, which `write` takes."""
        raise NotImplementedError

    def write(self, path: Path, found: Any, index: Index) -> None:
        """Writes the predictions of a single corpus in their official format."""
        raise NotImplementedError


def check_complete(needs_all: bool, index: Index) -> None:
    """Refuses an index that leaves images out, if the metrics need all of them.

    Raises:
      InputError: images are left out; names the first of them.
    """
    if needs_all and index.left_out:
        named = "; ".join(
            f"corpus {index.corpora[c]!r}, {key}: {reason}"
            for c, key, reason in index.left_out[:SHOWN]
        )
        raise InputError(
            f"this task's metrics are of all held-out examples, but "
            f"{len(index.left_out):,} images are missing: {named}. Supply them and "
            "pass --rebuild_index, or leave the corpus out by evaluated=False, or do "
            "not evaluate (eval.every='0 steps')."
        )


def marked(
    metrics: Mapping[str, float], index: Index, failed: Collection[int]
) -> dict[str, float]:
    """Marks metrics of fewer examples, so that none is taken for a metric of all.

    All metrics of a corpus that lacks images get the suffix `@missing`, and the counts
    `CORPUS/images_missing` and `CORPUS/texts_missing` are added.

    Args:
      metrics: metrics by name, `CORPUS/...`.
      index: index that was evaluated, with the images that it leaves out.
      failed: rows of images that could not be decoded.
    """
    out = dict(metrics)
    for c, corpus in enumerate(index.corpora):
        rows = [row for row in failed if index.image_corpus[row] == c]
        images = len(rows) + sum(of == c for of, *_ in index.left_out)
        if not images:
            continue
        texts = index.texts_left_out.get(corpus, 0) + index.num_texts_of(c, rows)
        mine = {f"{corpus}/images_missing": images, f"{corpus}/texts_missing": texts}
        out = {
            name + MARK if name.startswith(f"{corpus}/") else name: value
            for name, value in out.items()
        } | {name: float(number) for name, number in mine.items()}
    return out


def to_host(tree: Any) -> Any:
    """Copies device arrays to numpy arrays, complete on every process."""
    return jax.tree.map(trees.whole, tree)
