"""Held-out metrics of pre-training: masked words and matches, and what the image adds.

Every metric is also computed without visual tokens ("blanked") and with the image of
another example ("other"); rendered scenes add the ceiling of an oracle that reads the
scene's description.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pixel_bert_jax.data.index import Index
from pixel_bert_jax.evaluators.base import Evaluator, Predict
from pixel_bert_jax.evaluators.errors import Values
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
        r"match(_blanked|_other|_oracle)?(_se)?",
        r"words_minus_(blanked|other)(_se)?",
    )

    @classmethod
    def patterns(cls, index: Index) -> tuple[str, ...]:
        """Returns the metrics, with the accuracy of all words and of each class."""
        kinds = {"words"}.union(*(source.word_classes for source in index.sources))
        images = "|".join(f"_{name}" for name in (*IMAGES[1:], "oracle"))
        return (*cls.metrics, *(rf"{kind}({images})?(_se)?" for kind in sorted(kinds)))

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields metrics named `corpus/metric`.

        Metrics: `match`, `match_blanked`, `match_other`: share of correct decisions
        over each image once with its own and once with another image's text;
        `words...`: accuracy over masked tokens; the same per class of words;
        `words_minus_other`, `words_minus_blanked`: mean difference per text; all with
        standard errors, clustered by image; `texts`, `tokens`: counts.
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
            for metric, found in table.metrics(
                self._classes(index.sources[c]), self.settings.tokenizer.vocab_size
            ):
                if isinstance(found, Values):
                    yield from self.scored(f"{name}/{metric}", found)
                else:
                    yield f"{name}/{metric}", found

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
        picked["text"] = batch["example_id"][..., 1][rows]
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
    """Predictions of all texts of one corpus, one row per text."""

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = {}

    def add(self, columns: dict[str, np.ndarray]) -> None:
        for name, value in columns.items():
            self._columns.setdefault(name, []).append(value)

    def metrics(
        self, classes: dict[str, np.ndarray], vocab_size: int
    ) -> Iterator[tuple[str, float | Values]]:
        # First all counts and matches, then words by class and by image.
        columns = {k: np.concatenate(v) for k, v in self._columns.items()}
        if not columns:
            yield "texts", 0.0
            return
        picture, text = columns["picture"], columns["text"]
        usable = {name: np.ones(len(picture), bool) for name in (*IMAGES, "oracle")}
        usable["other"] = columns["has_other"]
        yield "texts", float(len(picture))
        for name, rows in usable.items():
            if f"match_{name}" in columns:
                # Half a point each for the matched and for the mismatched pair.
                rows = rows & columns["has_negative"]
                logits = columns[f"match_{name}"][rows]
                right = np.mean([logits[:, 0] > 0, logits[:, 1] <= 0], axis=0)
                yield _name("match", name), Values(text[rows], picture[rows], right)
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
                if counted.any():
                    row, slot = counted.nonzero()
                    place = columns["positions"][row, slot]
                    tokens = [f"{t}:{p}" for t, p in zip(text[row], place, strict=True)]
                    accuracy = Values(tokens, picture[row], hits[row, slot])
                    yield _name(kind, name), accuracy
        for name in ("other", "blanked"):
            # Per text: share of words right with its own image, minus that without it.
            rows = usable[name] & (weights.sum(1) > 0)
            own, rival = right["own"][rows].sum(1), right[name][rows].sum(1)
            difference = (own - rival) / weights[rows].sum(1)
            found = Values(text[rows], picture[rows], difference)
            yield f"words_minus_{name}", found


def _name(metric: str, image: str) -> str:
    return metric if image == "own" else f"{metric}_{image}"
