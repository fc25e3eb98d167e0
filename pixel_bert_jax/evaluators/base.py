"""What an evaluator is: it runs a named predict function over a held-out stream."""

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
from pixel_bert_jax.types import Batch, InputError, Params

MARK = "@missing"  # ends the names of metrics of fewer examples than there are
SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an evaluator may need beside a stream.

    Attributes:
      tokenizer: of the model.
      answers: its classes, if questions are asked.
      options: `config.eval` with the evaluator's own fields.
      heads: names of the objectives whose heads the model has.
      plan: fingerprint of what the stream shows.
      folder: where a long evaluation leaves what it has, to go on from; None: nowhere.
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
        """Runs one on a step of a stream and returns host arrays."""

    def place(self, step: Step) -> Batch:
        """Puts a step of a stream onto the devices, its images resized."""

    def run(self, name: str, variables: Params, batch: Batch) -> dict[str, Array]:
        """Runs one on arrays [G, ...]; the results stay on the devices.

        They may have more than G rows, of which the first G count.
        """


class Evaluator:
    """Turns predictions into metrics named CORPUS/METRIC.

    Attributes:
      partners: examples come with another image and a text of another one.
      whole_sets: all texts of an image come together, and so each image once.
      needs_all: a metric of fewer examples would be another one, so that missing
        images are refused; otherwise they are counted, see `marked`.
      needs: names of objectives, of which the model needs at least one head.
      metrics: patterns of the names of metrics, without the corpus; see `patterns`.
      suffix: ends the name of a file of predictions.
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
          InputError: the model has none of the heads that are needed.
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
        """Yields (name, value) after seeing every example of the stream once."""
        raise NotImplementedError

    @classmethod
    def patterns(cls, index: Index) -> tuple[str, ...]:
        """Returns patterns of the names of all metrics that an index may give."""
        del index
        return cls.metrics

    @classmethod
    def writes(cls) -> bool:
        """Returns whether there is an official file of predictions."""
        return cls.write is not Evaluator.write

    def predictions(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> list[Any]:
        """Returns the predictions for each corpus, which `write` takes."""
        raise NotImplementedError

    def write(self, path: Path, found: Any, index: Index) -> None:
        """Writes the predictions of a single corpus in their official form."""
        raise NotImplementedError


def check_complete(needs_all: bool, index: Index) -> None:
    """Refuses to evaluate on an index that leaves images out, if all are needed.

    Raises:
      InputError: names the first of them.
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
    """Returns metrics of which nobody takes those of fewer examples for those of all.

    Every metric of a corpus that lacks images gets the ending `@missing`, and beside
    them stand the numbers `CORPUS/images_missing` and `CORPUS/texts_missing`.

    Args:
      metrics: by name, `CORPUS/...`.
      index: what was evaluated; it tells which images it leaves out.
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


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Returns a mean and its standard error when values of one cluster depend.

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
    """Copies device arrays to numpy, whole ones on every process."""
    return jax.tree.map(trees.whole, tree)
