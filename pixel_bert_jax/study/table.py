"""Means and standard errors over seeds, and verdicts by a rule that is fixed before."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RULE = (
    "holds, or the opposite, if the difference of the means over seeds is more than 2 "
    "standard errors of that difference; otherwise no difference is seen"
)


class Mean(NamedTuple):
    """A mean over seeds.

    Attributes:
      value: the mean.
      error: its standard error, from the differences between seeds; NaN for one seed.
      seeds: number of seeds.
    """

    value: float
    error: float
    seeds: int

    def __str__(self) -> str:
        if not self.seeds:
            return "-"
        error = "" if math.isnan(self.error) else f" ± {self.error:.2g}"
        return f"{self.value:.4g}{error}"


def mean(values: Sequence[float]) -> Mean:
    """Returns mean and standard error of the values of several seeds."""
    n = len(values)
    if not n:
        return Mean(math.nan, math.nan, 0)
    error = float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Mean(float(np.mean(values)), error, n)


@dataclasses.dataclass(frozen=True)
class Claim:
    """That one row is better than another in a column.

    Attributes:
      text: what is claimed.
      better: the row that should be better.
      worse: the row that it is compared with.
      published: {column: difference} of the publication that claims it.
    """

    text: str
    better: str
    worse: str
    published: Mapping[str, float]


class Verdict(NamedTuple):
    """What a study says of a claim in one column.

    Attributes:
      difference: mean of the better row minus that of the worse one.
      error: standard error of the difference.
      text: "holds", "opposite", "no difference seen" or "not measured".
    """

    difference: float
    error: float
    text: str


def verdict(better: Mean, worse: Mean) -> Verdict:
    """Applies RULE to two independent means."""
    difference = better.value - worse.value
    error = math.hypot(better.error, worse.error)
    if math.isnan(difference) or math.isnan(error):
        return Verdict(difference, error, "not measured")
    if abs(difference) <= 2 * error:
        return Verdict(difference, error, "no difference seen")
    return Verdict(difference, error, "holds" if difference > 0 else "opposite")


def markdown(
    rows: Mapping[str, Mapping[str, Mean]], claims: Sequence[Claim] = ()
) -> str:
    """Formats rows of {column: mean}, and the verdict on each claim, as Markdown."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    seeds = {found.seeds for row in rows.values() for found in row.values()} or {0}
    number = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
    lines = [
        f"Mean ± standard error over {number} seeds.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    nothing = mean([])
    for name, row in rows.items():
        cells = " | ".join(str(row.get(column, nothing)) for column in columns)
        lines.append(f"| {name} | {cells} |")
    if claims:
        lines += [
            "",
            f"A claim {RULE}.",
            "",
            "| claim | column | published difference | difference | verdict |",
            "|---|---|---|---|---|",
        ]
    for claim in claims:
        for column, published in claim.published.items():
            pair = (rows[r].get(column, nothing) for r in (claim.better, claim.worse))
            found = verdict(*pair)
            lines.append(
                f"| {claim.text} | {column} | {published:+g} | "
                f"{found.difference:+.3g} ± {found.error:.2g} | {found.text} |"
            )
    return "\n".join(lines) + "\n"
