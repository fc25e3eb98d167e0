"""Targets of annotated texts, as arrays of a batch.

Annotations are stored as JSON and become arrays when a batch is made, so that an index
does not depend on the list of answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pixel_bert_jax.data.fields import Field
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary


class Targets(Protocol):
    """Makes arrays of the annotations of a batch's text slots.

    Attributes:
      fields: the arrays that it adds to a batch.
    """

    fields: Mapping[str, Field]

    def arrays(
        self, annotations: Sequence[Any], shape: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns {name of a field: array [G, K, ...]}.

        Args:
          annotations: annotations of the G K slots in order; None for an empty slot.
          shape: (G, K).
        """


class AnswerTargets:
    """`answer_scores` float32 [G, K, A]: soft targets of VQA's human answers."""

    fields: Mapping[str, Field] = {"answer_scores": Field(np.float32, ("K", "A"))}

    def __init__(self, vocabulary: AnswerVocabulary):
        self.vocabulary = vocabulary

    def arrays(
        self, annotations: Sequence[Any], shape: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns the scores of the answers that have a class. See `Targets`."""
        out = np.zeros((len(annotations), len(self.vocabulary)), np.float32)
        for row, annotation in zip(out, annotations, strict=True):
            if annotation is not None:
                human = (record["answer"] for record in annotation["answers"])
                for place, score in self.vocabulary.targets(human).items():
                    row[place] = score
        return {"answer_scores": out.reshape(*shape, -1)}


class TruthTargets:
    """`label` int32 [G, K]: 1 if a statement is true of its images, else 0."""

    fields: Mapping[str, Field] = {"label": Field(np.int32, ("K",))}

    def arrays(
        self, annotations: Sequence[Any], shape: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns the labels. See `Targets`."""
        out = [bool(x is not None and x["label"] == "True") for x in annotations]
        return {"label": np.array(out, np.int32).reshape(shape)}
