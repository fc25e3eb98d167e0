"""Texts of other images for every text of a training batch: retrieval's negatives.

A pure function of (seed, step) and the corpora. Negatives come from the whole corpus,
never from the batch, so that their difficulty does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_bert_jax.data.plan.permutations import stream
from pixel_bert_jax.data.plan.types import NO_EXAMPLE, Corpus, PlanBatch
from pixel_bert_jax.types import InputError

_DRAWS = 6  # what a stream is for; `base` and `partners` have the numbers before


class Negatives:
    """Draws N texts of other images beside each text of a batch.

    Each is uniform over those of the corpus, and none comes twice beside one text
    (arXiv 2004.00849, section 4.3.3: 20 random captions of others).
    """

    def __init__(self, corpora: Sequence[Corpus], count: int, seed: int):
        """Notes which image each text shows.

        Args:
          corpora: of the plan.
          count: N.
          seed: of the plan.

        Raises:
          InputError: a corpus has an image with too few texts of others.
        """
        self.count, self.seed = count, seed
        self._pictures = [np.asarray(c.image_ids)[c.text_set] for c in corpora]
        for corpus, image_ids in zip(corpora, self._pictures, strict=True):
            largest = np.unique(image_ids, return_counts=True)[1].max()
            if (others := len(image_ids) - largest) < count:
                raise InputError(
                    f"corpus {corpus.name!r}: expected at least "
                    f"objectives.retrieval.negatives = {count} texts of other images "
                    f"beside each text; one image has {others}"
                )

    def extend(self, batch: PlanBatch, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Puts each text's negatives behind it; an empty slot gets empty ones.

        Args:
          batch: with texts [G, P].
          step: of the batch.

        Returns:
          texts int64 [G, P (1 + N)] and their example ids [G, P (1 + N), 2].
        """
        groups, texts = batch.texts.shape
        rows = np.full((groups, texts, 1 + self.count), -1, np.int64)
        rows[..., 0] = batch.texts
        for c, image_ids in enumerate(self._pictures):
            mine = (batch.corpus == c)[:, None] & (batch.texts >= 0)
            bits = stream(self.seed, _DRAWS, c, step)
            rows[mine, 1:] = _draw(bits, image_ids, batch.texts[mine], self.count)
        example_id = np.full((*rows.shape, 2), NO_EXAMPLE, np.uint32)
        example_id[..., 0] = np.where(rows >= 0, batch.example_id[..., :1], NO_EXAMPLE)
        example_id[..., 1] = rows.astype(np.uint32)  # -1 becomes NO_EXAMPLE
        return rows.reshape(groups, -1), example_id.reshape(groups, -1, 2)


def _draw(
    bits: np.random.PCG64, image_ids: np.ndarray, own: np.ndarray, count: int
) -> np.ndarray:
    """Returns int64 [n, count]: rows of other images than those of rows `own` [n]."""

    def draws(number: int) -> np.ndarray:
        return (bits.random_raw(number) % np.uint64(len(image_ids))).astype(np.int64)

    rows = draws(len(own) * count).reshape(len(own), count)
    while True:
        wrong = image_ids[rows] == image_ids[own][:, None]
        order = np.argsort(rows, axis=1, kind="stable")
        ordered = np.take_along_axis(rows, order, axis=1)
        repeated = np.zeros(rows.shape, bool)
        repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        np.put_along_axis(repeated, order, repeated.copy(), axis=1)
        wrong |= repeated
        if not wrong.any():
            return rows
        rows[wrong] = draws(int(wrong.sum()))
