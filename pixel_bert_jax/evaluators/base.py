"""What an evaluator is: it runs a named predict function over a held-out stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.pipeline import Step
from pixel_bert_jax.types import Params

# Runs a task's predict function on one step of a stream; host arrays come back.
Predict = Callable[[Params, Step], dict[str, np.ndarray]]


class Evaluator(Protocol):
    """Turns predictions into figures."""

    # An evaluator may also have `predictions`, as `run` without the figures, and
    # `write`, which puts those of one corpus into their official form.

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
    """Copies device arrays to numpy."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
