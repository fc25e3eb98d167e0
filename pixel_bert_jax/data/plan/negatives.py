"""Texts of other pictures for every text of a training batch: retrieval's negatives.

A pure function of (seed, step) and the corpora. Negatives come from the whole corpus,
never from the batch, so that their difficulty does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_bert_jax.data.plan.permutations import stream
from pixel_bert_jax.data.plan.types import HOLE, Corpus, PlanBatch
from pixel_bert_jax.types import InputError

_DRAWS = 6  # what a stream is for; `plan_base` and `partners` have the numbers before


class Negatives:
    """Draws N texts of other pictures beside each text of a batch.

    Each is uniform over those of the corpus, and none comes twice beside one text
    (arXiv 2004.00849, section 4.3.3: 20 random captions of others).
    """

    def __init__(self, corpora: Sequence[Corpus], count: int, seed: int):
        """Notes which picture each text shows.

        Args:
          corpora: of the plan.
          count: N.
          seed: of the plan.

        Raises:
          InputError: a corpus has a picture with too few texts of others.
        """
        self.count, self.seed = count, seed
        self._pictures = [np.asarray(c.pictures)[c.text_unit] for c in corpora]
        for corpus, pictures in zip(corpora, self._pictures, strict=True):
            largest = np.unique(pictures, return_counts=True)[1].max()
            if (others := len(pictures) - largest) < count:
                raise InputError(
                    f"corpus {corpus.name!r}: expected at least "
                    f"objectives.retrieval.negatives = {count} texts of other pictures "
                    f"beside each text; one picture has {others}"
                )

    def extend(self, batch: PlanBatch, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Puts each text's negatives behind it; an empty slot gets empty ones.

        Args:
          batch: with texts [G, P].
          step: of the batch.

        Returns:
          texts int64 [G, P (1 + N)] and their uids [G, P (1 + N), 2].
        """
        groups, texts = batch.texts.shape
        rows = np.full((groups, texts, 1 + self.count), -1, np.int64)
        rows[..., 0] = batch.texts
        for c, pictures in enumerate(self._pictures):
            mine = (batch.corpus == c)[:, None] & (batch.texts >= 0)
            bits = stream(self.seed, _DRAWS, c, step)
            rows[mine, 1:] = _draw(bits, pictures, batch.texts[mine], self.count)
        uid = np.full((*rows.shape, 2), HOLE, np.uint32)
        uid[..., 0] = np.where(rows >= 0, batch.uid[..., :1], HOLE)
        uid[..., 1] = rows.astype(np.uint32)  # -1 becomes HOLE
        return rows.reshape(groups, -1), uid.reshape(groups, -1, 2)


def _draw(
    bits: np.random.PCG64, pictures: np.ndarray, own: np.ndarray, count: int
) -> np.ndarray:
    """Returns int64 [n, count]: rows of other pictures than those of rows `own` [n]."""

    def draws(number: int) -> np.ndarray:
        return (bits.random_raw(number) % np.uint64(len(pictures))).astype(np.int64)

    rows = draws(len(own) * count).reshape(len(own), count)
    while True:
        wrong = pictures[rows] == pictures[own][:, None]
        order = np.argsort(rows, axis=1, kind="stable")
        ordered = np.take_along_axis(rows, order, axis=1)
        repeated = np.zeros(rows.shape, bool)
        repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        np.put_along_axis(repeated, order, repeated.copy(), axis=1)
        wrong |= repeated
        if not wrong.any():
            return rows
        rows[wrong] = draws(int(wrong.sum()))
