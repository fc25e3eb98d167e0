"""Held-out metrics of pre-training: masked words and matches, and what the image adds.

Every metric stands beside the same checkpoint without visual tokens ("blanked") and
with another example's image ("other"); embedded scenes add the ceiling of an oracle
that reads the scene graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pixel_bert_jax.data.index import Index
from pixel_bert_jax.evaluators.base import Evaluator, Predict, clustered_mean
from pixel_bert_jax.types import Params

IMAGES = ("own", "blanked", "other")


class Probe(Evaluator):
    """Scores the predictions of `tasks.pretrain.probe`."""

    partners = True
    needs_all = False
    needs = ("mlm", "itm")
    metrics = (
        "texts",
        "tokens",
        "match_se",
        r"match(_blanked|_other|_oracle)?",
        r"words_minus_(blanked|other)(_se)?",
    )

    @classmethod
    def patterns(cls, index: Index) -> tuple[str, ...]:
        """Returns the metrics, with the accuracy of all words and of each class."""
        kinds = {"words"}.union(*(source.word_classes for source in index.sources))
        images = "|".join(f"_{name}" for name in (*IMAGES[1:], "oracle"))
        return (*cls.metrics, *(rf"{kind}({images})?" for kind in sorted(kinds)))

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields metrics named `corpus/metric`.

        Metrics: `match`, `match_blanked`, `match_other`: share of right decisions over
        every pair once with its own and once with another picture's text, the first
        with its standard error; `words...`: accuracy over masked tokens; the same for
        each class of words; `words_minus_other`, `words_minus_blanked`: mean difference
        a text, with standard errors (clustered by picture); `texts`, `tokens`: counts.
        """
        tables = [_Table() for _ in index.corpora]
        for step in stream:
            out = predict("probe", variables, step)
            batch = step.batch
            for c, table in enumerate(tables):
                rows = batch["example_mask"] & (batch["corpus"] == c)[:, None]
                if rows.any():
                    self._add(table, out, batch, rows, index.sources[c])
        for c, table in enumerate(tables):
            name = index.corpora[c]
            for metric, value in table.metrics(
                self._classes(index.sources[c]), self.settings.tokenizer.vocab_size
            ):
                yield f"{name}/{metric}", value

    def _classes(self, source: Any) -> dict[str, np.ndarray]:
        ids = {token: i for i, token in enumerate(self.settings.tokenizer.vocabulary)}
        return {
            kind: np.array(sorted(ids[w] for w in words if w in ids))
            for kind, words in source.word_classes.items()
        }

    def _add(
        self, table: _Table, out: Any, batch: Any, rows: np.ndarray, source: Any
    ) -> None:
        pictures = np.broadcast_to(batch["image_id"][:, :1], rows.shape)[rows]
        picked = {name: value[rows] for name, value in out.items()}
        picked["picture"] = pictures
        picked["has_negative"] = batch["negative_mask"][rows].any(-1)
        shown = (batch["other_image_size"] > 0).all((1, 2))
        picked["has_other"] = np.broadcast_to(shown[:, None], rows.shape)[rows]
        if self.settings.options.oracle and source.oracle is not None:
            picked |= self._ceiling(picked, batch, rows, source)
        table.add(picked)

    def _ceiling(
        self, picked: dict[str, np.ndarray], batch: Any, rows: np.ndarray, source: Any
    ) -> dict[str, np.ndarray]:
        """Asks the source's oracle for masked words and for the negative pairs."""
        ids = {token: i for i, token in enumerate(self.settings.tokenizer.vocabulary)}
        words = np.zeros_like(picked["labels"])
        match = np.zeros((len(words), 2), np.float32)
        texts = batch["text_ids"][rows], batch["text_mask"][rows]
        negatives = batch["negative_ids"][rows], batch["negative_mask"][rows]
        for n, picture in enumerate(picked["picture"]):
            oracle = source.oracle(int(picture))
            text = self._plain(texts[0][n], texts[1][n])
            weights = picked["weights"][n]
            # Positions count [CLS]; the oracle's words do not.
            hidden = [int(p) - 1 for p in picked["positions"][n][weights]]
            if hidden:
                words[n, weights] = [ids[w] for w in oracle.words(text, hidden)]
            negative = self._plain(negatives[0][n], negatives[1][n])
            match[n] = (
                1.0 if oracle.match(text) else -1.0,
                1.0 if negative and oracle.match(negative) else -1.0,
            )
        return {"words_oracle": words, "match_oracle": match}

    def _plain(self, ids: np.ndarray, mask: np.ndarray) -> list[str]:
        return self.settings.tokenizer.tokens(ids[mask][1:-1])


class _Table:
    """Predictions of all texts of one corpus, a row a text."""

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = {}

    def add(self, columns: dict[str, np.ndarray]) -> None:
        for name, value in columns.items():
            self._columns.setdefault(name, []).append(value)

    def metrics(
        self, classes: dict[str, np.ndarray], vocab_size: int
    ) -> Iterator[tuple[str, float]]:
        columns = {k: np.concatenate(v) for k, v in self._columns.items()}
        if not columns:
            yield "texts", 0.0
            return
        picture = columns["picture"]
        usable = {name: np.ones(len(picture), bool) for name in (*IMAGES, "oracle")}
        usable["other"] = columns["has_other"]
        yield "texts", float(len(picture))
        for name, rows in usable.items():
            if f"match_{name}" in columns:
                rows = rows & columns["has_negative"]
                logits = columns[f"match_{name}"][rows]
                right = np.mean([logits[:, 0] > 0, logits[:, 1] <= 0], axis=0)
                mean, error = clustered_mean(right, picture[rows])
                yield _name("match", name), mean
                if name == "own":
                    yield "match_se", error
        if "words_own" not in columns:
            return
        weights, labels = columns["weights"], columns["labels"]
        yield "tokens", float(weights.sum())
        right = {
            name: (columns[f"words_{name}"] == labels) & weights
            for name in usable
            if f"words_{name}" in columns
        }
        kinds = {"words": np.arange(vocab_size)} | classes
        for kind, ids in kinds.items():
            member = weights & np.isin(labels, ids)
            for name, hits in right.items():
                counted = member & usable[name][:, None]
                total = counted.sum()
                if total:
                    yield _name(kind, name), float(hits[counted].sum() / total)
        for name in ("other", "blanked"):
            # Per text: share right with the own image minus share right without it.
            rows = usable[name] & (weights.sum(1) > 0)
            own, rival = right["own"][rows].sum(1), right[name][rows].sum(1)
            difference = (own - rival) / weights[rows].sum(1)
            mean, error = clustered_mean(difference, picture[rows])
            yield f"words_minus_{name}", mean
            yield f"words_minus_{name}_se", error


def _name(metric: str, image: str) -> str:
    return metric if image == "own" else f"{metric}_{image}"
