"""What an evaluator is: it runs a named predict function over a held-out stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array

from pixel_bert_jax import trees
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.pipeline import Step
from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an evaluator may need beside a stream.

    Attributes:
      tokenizer: of the model.
      answers: its classes, if questions are asked.
      options: config.eval.
      oracle: also compute the ceilings of generated data.
      objectives: names of those of the model.
      plan: identity of what the stream shows.
      folder: where a long evaluation leaves what it has, to go on from; None: nowhere.
    """

    tokenizer: WordPiece
    answers: AnswerVocabulary | None
    options: Mapping[str, Any]
    oracle: bool
    objectives: Collection[str] = ()
    plan: str = ""
    folder: Path | None = None


class Predict(Protocol):
    """Runs a task's predict functions, each compiled once a shape.

    Attributes:
      names: of the functions.
    """

    names: Collection[str]

    def __call__(
        self, name: str, variables: Params, step: Step
    ) -> dict[str, np.ndarray]:
        """Runs one on a step of a stream and returns host arrays."""

    def place(self, step: Step) -> Batch:
        """Puts a step of a stream onto the devices, its images resized."""

    def run(self, name: str, variables: Params, batch: Batch) -> dict[str, Array]:
        """Runs one on arrays [G, ...]; the results stay on the devices.

        They may have more than G rows, of which the first G count.
        """


class Evaluator(Protocol):
    """Turns predictions into figures.

    Attributes:
      partners: examples come with another picture and a text of another one.
      whole_units: all texts of an image come together, and so each image once.
    """

    partners: bool
    whole_units: bool

    # An evaluator may also have `predictions`, as `run` without the figures, and
    # `write`, which puts those of one corpus into their official form; with `suffix`,
    # the file's name has to end so.

    def names(self, index: Index) -> list[str]:
        """Returns the names of all figures that it may give for an index."""

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields (name, figure) after seeing every example of the stream once."""


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Returns a mean and its standard error when values of one cluster depend.

    se^2 = sum over clusters of (sum of deviations)^2 / n^2 (Liang and Zeger 1986, for a
    mean), with the factor C / (C - 1) for C clusters.

    Args:
      values: [n] float.
      clusters: [n] int, e.g. the picture that a caption belongs to.
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
    """Copies device arrays to numpy, whole ones on every process."""
    return jax.tree.map(trees.whole, tree)
