"""The two plans of a data set: training batches without end, held-out ones once.

Both are pure functions of their arguments; the rules stand in `base.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from pixel_bert_jax.data.plan.base import FORMAT, BasePlan
from pixel_bert_jax.data.plan.negatives import Negatives
from pixel_bert_jax.data.plan.partners import set_partners, text_partners
from pixel_bert_jax.data.plan.types import (
    NO_EXAMPLE,
    Bucket,
    BucketStatistics,
    Corpus,
    PlanBatch,
    Statistics,
)
from pixel_bert_jax.types import InputError

__all__ = [
    "FORMAT",
    "NO_EXAMPLE",
    "Bucket",
    "BucketStatistics",
    "Corpus",
    "EvaluationPlan",
    "PlanBatch",
    "Statistics",
    "TrainPlan",
]


class TrainPlan(BasePlan):
    """An endless stream of training batches; see the module's rules.

    With `negatives` = N each text is followed by N texts of other images.

    Raises InputError, beside the reasons of `BasePlan`, if the data fill no batch or
    have too few negatives.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        sizes: np.ndarray,
        *,
        negatives: int = 0,
        **settings,
    ):
        super().__init__(corpora, sizes, **settings)
        self._negatives = None
        if negatives:
            self._negatives = Negatives(self.corpora, negatives, self.seed)
        available = sum(self._bucket_sizes)
        if available < self.groups:
            raise InputError(
                f"Expected data for at least one batch of groups={self.groups}, "
                f"received {available} groups of up to {self.texts_per_group} texts. "
                f"Nearest valid: groups={available}, or more data."
            )
        self.steps_per_epoch = self._num_batches

    def _weight(self, corpus: Corpus) -> Fraction:
        return Fraction(float(corpus.weight)).limit_denominator(10**6)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything that fixes the order of the examples."""
        if self._negatives is None:
            return super().fingerprint
        both = f"{super().fingerprint} negatives {self._negatives.count}"
        return hashlib.sha256(both.encode()).hexdigest()

    def batch(self, step: int) -> PlanBatch:
        """Returns the global batch of a step; O(1) once its epoch is built.

        Safe to call from several threads. Raises IndexError for a negative step.
        """
        if step < 0:
            raise IndexError(f"Expected a step of at least 0, received {step}.")
        batch, _ = self._batch(*divmod(step, self.steps_per_epoch))
        if self._negatives is None:
            return batch
        texts, example_id = self._negatives.extend(batch, step)
        return dataclasses.replace(batch, texts=texts, example_id=example_id)


class EvaluationPlan(BasePlan):
    """Every text exactly once in one fixed order, whatever the weights.

    The order is a seeded shuffle, so that a prefix is a fair sample. Negatives and
    other images depend on the seed and the corpora alone, not on G or K, so that no
    figure depends on the batch size.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        sizes: np.ndarray,
        *,
        partners: bool = True,
        **settings,
    ):
        super().__init__(corpora, sizes, **settings)
        self.num_batches = self._num_batches
        self.partners = partners
        if not partners:
            return
        self._negatives = text_partners(self.seed, self.corpora)
        self._other_set = set_partners(self.seed, self.corpora, self._layout)

    def _weight(self, corpus: Corpus) -> Fraction:
        return Fraction(1)

    def batch(self, index: int) -> PlanBatch:
        """Returns batch `index` of `num_batches`. Raises IndexError outside."""
        if not 0 <= index < self.num_batches:
            raise IndexError(
                f"Expected a batch from 0 to {self.num_batches - 1}, received {index}."
            )
        batch, image_sets = self._batch(0, index)
        if not self.partners:
            return batch
        negatives = np.full_like(batch.texts, -1)
        for c, rows in enumerate(self._negatives):
            real = (batch.corpus == c)[:, None] & (batch.texts >= 0)
            negatives[real] = rows[batch.texts[real]]
        others = np.full_like(batch.images, -1)
        other = self._other_set[image_sets]
        others[: len(image_sets)] = np.where(
            other[:, None] >= 0, self._layout.set_images[other], -1
        )
        return dataclasses.replace(batch, negatives=negatives, other_images=others)
