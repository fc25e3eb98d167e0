"""Compares two evaluations of the same data, example by example.

    python -m pixel_bert_jax.study.compare A.jsonl B.jsonl

The files are those of `--mode=evaluate --examples=FILE`. For each metric that both
have, it prints both means, their difference, and the 95 % interval of a paired
bootstrap (Efron 1979; the percentile interval of `scipy.stats.bootstrap`) that draws
images with all their examples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

from pixel_bert_jax.evaluators import errors
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.types import EXIT_BAD_INPUT, InputError

RESAMPLES = 9_999
LEVEL = 0.95


class Difference(NamedTuple):
    """The difference of two means over the same examples.

    Attributes:
      first, second: the means.
      low, high: the interval of second - first.
      examples, clusters: numbers of examples, and of what they share.
    """

    first: float
    second: float
    low: float
    high: float
    examples: int
    clusters: int


def difference(first: Values, second: Values, seed: int = 0) -> Difference:
    """Compares two models' values of the same examples.

    Args:
      first: values of one model.
      second: values of the other, of the same examples in any order.
      seed: of the resampling.

    Raises:
      InputError: the examples are not the same; names the first that differ.
    """
    row_of = {name: row for row, name in enumerate(second.examples)}
    odd = sorted(set(map(str, first.examples)) ^ set(map(str, second.examples)))
    if odd:
        raise InputError(
            f"{len(odd)} examples are in one evaluation alone, such as {odd[0]}; "
            "expected evaluations of the same data"
        )
    order = [row_of[name] for name in first.examples]
    gains = second.values[order] - first.values
    _, cluster = np.unique(first.clusters, return_inverse=True)
    sums = np.bincount(cluster, weights=gains)
    counts = np.bincount(cluster)
    low = high = float(np.mean(gains))
    if len(counts) > 1 and np.ptp(gains):
        interval = scipy.stats.bootstrap(
            (sums, counts),
            # A resample of images has another number of examples.
            lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
            paired=True,
            n_resamples=RESAMPLES,
            batch=500,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    means = float(np.mean(first.values)), float(np.mean(second.values))
    return Difference(*means, low, high, len(gains), len(counts))


def report(first: Path, second: Path) -> Iterator[str]:
    """Yields a line per metric that two files share.

    Raises:
      InputError: they share none, or a file cannot be read.
    """
    one, other = errors.read(first), errors.read(second)
    shared = [metric for metric in one if metric in other]
    if not shared:
        raise InputError(f"{first} and {second} share no metric")
    for metric in shared:
        found = difference(one[metric], other[metric])
        seen = "" if found.low <= 0 <= found.high else "  *"
        yield (
            f"{metric}: {found.first:.4f} -> {found.second:.4f}, "
            f"{found.second - found.first:+.4f} [{found.low:+.4f}, {found.high:+.4f}] "
            f"({found.examples:,} examples, {found.clusters:,} clusters){seen}"
        )


def main() -> int:
    """Prints the comparison and returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Compares two files of --examples with a paired bootstrap."
    )
    parser.add_argument("first", type=Path, help="JSON lines of one evaluation")
    parser.add_argument("second", type=Path, help="JSON lines of another")
    given = parser.parse_args()
    try:
        for line in report(given.first, given.second):
            print(line)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(
        f"* the {LEVEL:.0%} interval excludes 0; of 20 equal metrics one would have it"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
