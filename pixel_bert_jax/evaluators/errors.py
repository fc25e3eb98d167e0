"""Standard errors of metrics, from one value per example.

Examples that share an image are not independent, so errors are clustered by image.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data import durable
from pixel_bert_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Values:
    """One value per example, whose mean is a metric.

    Attributes:
      examples: [n], names that another model's values of the same data have as well.
      clusters: [n], what examples may share, e.g. the row of their image.
      values: [n] float.
    """

    examples: Sequence[Any]
    clusters: np.ndarray
    values: np.ndarray

    def of(self, rows: np.ndarray) -> Values:
        """Returns the values of some examples, [n] bool."""
        names = [n for n, row in zip(self.examples, rows, strict=True) if row]
        return Values(names, self.clusters[rows], self.values[rows])

    def mean(self) -> tuple[float, float]:
        """Returns the mean and its standard error, see `clustered_mean`."""
        return clustered_mean(self.values, self.clusters)


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Returns a mean and its standard error, for values that depend within clusters.

    se^2 = sum over clusters of (sum of deviations)^2 / n^2 (Liang and Zeger 1986, for a
    mean), with the factor C / (C - 1) for C clusters. With one cluster nothing is known
    of the error, which is NaN.

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
    if number == 1:
        return mean, float("nan")
    return mean, float(np.sqrt(number / (number - 1) * np.sum(sums**2)) / n)


def write(path: Path, found: Mapping[str, Values]) -> None:
    """Writes the values of every example, one JSON object per line.

    Args:
      path: the file, which is replaced as a whole.
      found: values of each metric, by its name.
    """
    lines = (
        json.dumps({"metric": metric, "example": name, "cluster": c, "value": value})
        for metric, one in found.items()
        for name, c, value in zip(
            map(str, one.examples),
            np.asarray(one.clusters).tolist(),
            np.asarray(one.values, float).tolist(),
            strict=True,
        )
    )
    durable.write(path, "".join(f"{line}\n" for line in lines))


def read(path: Path) -> dict[str, Values]:
    """Reads what `write` writes.

    Raises:
      InputError: no such file, or a line of another form.
    """
    columns: dict[str, tuple[list[str], list[Any], list[float]]] = {}
    for number, line in _lines(path):
        try:
            record = json.loads(line)
            metric = record["metric"]
            row = record["example"], record["cluster"], float(record["value"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: expected an object with metric, example, cluster "
                f"and value, as --examples writes it; received {line[:80]!r}"
            ) from error
        for column, value in zip(
            columns.setdefault(metric, ([], [], [])), row, strict=True
        ):
            column.append(value)
    return {
        metric: Values(names, np.array(clusters), np.array(values))
        for metric, (names, clusters, values) in columns.items()
    }


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from enumerate(file, 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
