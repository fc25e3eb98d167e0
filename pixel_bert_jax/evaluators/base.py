"""The interface of evaluators, which run predict functions over a held-out stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
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
from pixel_bert_jax.types import Batch, InputError, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an evaluator may need besides a stream.

    Attributes:
      tokenizer: the model's tokenizer.
      answers: the model's answer vocabulary, None if texts are no questions.
      options: `config.eval` with the evaluator's own fields.
      heads: names of the objectives whose heads the model has.
      plan: fingerprint of the examples in the stream.
      folder: keeps partial results of a long evaluation, to resume from; None: keep
        nothing.
    """

    tokenizer: WordPiece
    answers: AnswerVocabulary | None
    options: Eval
    heads: Collection[str] = ()
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
      needs: names of objectives; the model needs the head of at least one of them.
      metrics: patterns of metric names, without the corpus; see `patterns`.
      suffix: end of the name of a file of predictions.
    """

    partners: ClassVar[bool] = False
    whole_sets: ClassVar[bool] = False
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

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields (metric, value) after reading every example of the stream once."""
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


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Returns a mean and its standard error, for values that depend within clusters.

    se^2 = sum over clusters of (sum of deviations)^2 / n^2 (Liang and Zeger 1986, for a
    mean), with the factor C / (C - 1) for C clusters.

    Args:
      values: [n] float.
      clusters: [n] int, e.g. the image that a caption belongs to.
    """
    n = len(values)
    if n == 0:
        return float("nan"), float("nan")
    mean = float(np.mean(values))
    _, inverse = np.unique(clusters, return_inverse=True)
    sums = np.bincount(inverse, weights=values - mean)
    number = len(sums)
    factor = number / max(number - 1, 1)
    return mean, float(np.sqrt(factor * np.sum(sums**2)) / n)


def to_host(tree: Any) -> Any:
    """Copies device arrays to numpy arrays, complete on every process."""
    return jax.tree.map(trees.whole, tree)
