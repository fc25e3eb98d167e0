"""Held-out metrics of NLVR2: accuracy and consistency, as by the official script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data.index import Index
from pixel_bert_jax.evaluators.base import Evaluator, Predict
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.evaluators.nlvr2_scores import (
    LABELS,
    check_predictions,
    read_csv,
    scores,
    set_of,
    write_csv,
)
from pixel_bert_jax.types import Params


class Nlvr2Evaluator(Evaluator):
    """Scores the predictions of `tasks.nlvr2.judge`; an oracle is always right."""

    needs = ("truth",)
    metrics = ("statements", r"(accuracy|consistency)(_se)?")

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields `corpus/statements`, `accuracy` and `consistency` (shares, 0 to 1).

        Standard errors are clustered by the set of images that sentences share.
        """
        found = self.predictions(predict, variables, stream, index)
        for c, corpus in enumerate(index.corpora):
            rows = range(index.num_texts(c))
            scored = scores(found[c], [index.annotation(c, row) for row in rows])
            yield f"{corpus}/statements", float(len(rows))
            for metric, hits in (
                ("accuracy", scored.right),
                ("consistency", scored.consistent),
            ):
                sets = np.array([set_of(name) for name in hits])
                values = Values(list(hits), sets, np.array([*hits.values()], float))
                yield from self.scored(f"{corpus}/{metric}", values)

    def write(self, path: Path, found: dict[str, str], index: Index) -> None:
        """Writes the predictions of a single corpus as the official csv file.

        Raises:
          InputError: the official script would refuse the file.
        """
        write_csv(path, found)
        names = [
            index.annotation(0, n)["identifier"] for n in range(index.num_texts(0))
        ]
        check_predictions(read_csv(path), names)

    def predictions(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> list[dict[str, str]]:
        """Returns {identifier: "True" or "False"} for each corpus."""
        found: list[dict[str, str]] = [{} for _ in index.corpora]
        for step in stream:
            out = predict("judge", variables, step)
            batch = step.batch
            for g, k in zip(*batch["example_mask"].nonzero(), strict=True):
                c, row = int(batch["corpus"][g]), int(batch["example_id"][g, k, 1])
                name = index.annotation(c, row)["identifier"]
                found[c][name] = LABELS[int(out["log_odds"][g, k] > 0)]
        return found
