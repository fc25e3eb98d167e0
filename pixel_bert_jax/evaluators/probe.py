"""Held-out figures of pre-training: masked words and matches, and what the image adds.

Every figure stands beside the same checkpoint without visual tokens ("blanked") and
with another example's picture ("other"); embedded scenes add the ceiling of an oracle
that reads the scene graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pixel_bert_jax.data.index import Index
from pixel_bert_jax.evaluators.base import Predict, Settings, clustered_mean
from pixel_bert_jax.types import Params

IMAGES = ("own", "blanked", "other")


class Probe:
    """Scores the predictions of `Pretrain.probe`.

    Attributes:
      tokenizer: of the run.
      oracle: also compute ceilings, where the source has an oracle.
    """

    partners = True
    whole_units = False
    needs_all = False

    def __init__(self, settings: Settings):
        """Keeps what is needed."""
        self.tokenizer = settings.tokenizer
        self.oracle = settings.oracle

    def names(self, index: Index) -> list[str]:
        """Returns the names of all figures that `run` may give for an index."""
        figures = ["texts", "match", "match_se", "tokens"]
        figures += [f"match_{name}" for name in IMAGES[1:]]
        for name in IMAGES[1:]:
            figures += [f"words_minus_{name}", f"words_minus_{name}_se"]
        names = []
        for corpus, source in zip(index.corpora, index.sources, strict=True):
            kinds = ("words", *source.word_classes)
            words = [_name(kind, image) for kind in kinds for image in IMAGES]
            names += [f"{corpus}/{figure}" for figure in (*figures, *words)]
        return names

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields figures named `corpus/figure`.

        Figures: `match`, `match_blanked`, `match_other`: share of right decisions over
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
            for figure, value in table.figures(
                self._classes(index.sources[c]), self.tokenizer.vocab_size
            ):
                yield f"{name}/{figure}", value

    def _classes(self, source: Any) -> dict[str, np.ndarray]:
        ids = {token: i for i, token in enumerate(self.tokenizer.vocabulary)}
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
        if self.oracle and source.oracle is not None:
            picked |= self._ceiling(picked, batch, rows, source)
        table.add(picked)

    def _ceiling(
        self, picked: dict[str, np.ndarray], batch: Any, rows: np.ndarray, source: Any
    ) -> dict[str, np.ndarray]:
        """Asks the source's oracle for masked words and for the negative pairs."""
        ids = {token: i for i, token in enumerate(self.tokenizer.vocabulary)}
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
        return self.tokenizer.tokens(ids[mask][1:-1])


class _Table:
    """Predictions of all texts of one corpus, a row a text."""

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = {}

    def add(self, columns: dict[str, np.ndarray]) -> None:
        for name, value in columns.items():
            self._columns.setdefault(name, []).append(value)

    def figures(
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


def _name(figure: str, image: str) -> str:
    return figure if image == "own" else f"{figure}_{image}"
