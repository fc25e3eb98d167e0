"""Held-out metrics of visual question answering: the official accuracy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data.index import Index
from pixel_bert_jax.evaluators.base import Evaluator, Predict
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.evaluators.vqa_accuracy import accuracy, validate, write_results
from pixel_bert_jax.types import InputError, Params


class VqaEvaluator(Evaluator):
    """Scores the predictions of `tasks.vqa.answer`."""

    needs = ("answers",)
    metrics = ("questions", "accuracy", r"accuracy_\w+")  # errors among the latter

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields metrics named `corpus/metric`, accuracies in percent.

        Metrics: `questions`, their number; `accuracy`; `accuracy_...`, per answer type
        and question type; with an oracle `accuracy_oracle`. Means have two decimals, as
        the official evaluator's, and standard errors, clustered by image.
        """
        found = self.predictions(predict, variables, stream, index)
        for c, corpus in enumerate(index.corpora):
            annotations = list(self._annotations(index, c))
            unanswered = sum("answers" not in one for one in annotations)
            if unanswered:
                raise InputError(
                    f"{unanswered:,} of {len(annotations):,} questions of {corpus!r} "
                    "have no answers to compare with; --mode=predict writes the file "
                    "for the test server"
                )
            yield f"{corpus}/questions", float(len(annotations))
            yield from self._accuracies(found[c], annotations, index, c)
            if self.settings.options.oracle and not index.sources[c].files():
                best = {
                    a["question_id"]: a["multiple_choice_answer"] for a in annotations
                }
                yield f"{corpus}/accuracy_oracle", accuracy(best, annotations).overall

    def _accuracies(
        self, found: dict[int, str], annotations: list[Any], index: Index, c: int
    ) -> Iterator[tuple[str, float]]:
        """Yields the official accuracies of a corpus, with standard errors."""
        scored = accuracy(found, annotations)
        numbers = [a["question_id"] for a in annotations]
        every = Values(
            numbers,
            index.text_image(c)[: len(numbers)],
            np.array([scored.by_question[number] for number in numbers]),
        )
        parts: dict[str, tuple[float, np.ndarray]] = {}
        for field, means in (
            ("answer_type", scored.by_answer_type),
            ("question_type", scored.by_question_type),
        ):
            kinds = np.array([a[field] for a in annotations])
            parts |= {_name(n): (mean, kinds == n) for n, mean in means.items()}
        parts = {"accuracy": (scored.overall, np.ones(len(numbers), bool)), **parts}
        for name, (mean, rows) in parts.items():
            metric = f"{index.corpora[c]}/{name}"
            _, error = self.scored(metric, every.of(rows))
            yield metric, mean
            yield error

    def predictions(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> list[dict[int, str]]:
        """Returns {question id: answer} for each corpus."""
        found: list[dict[int, str]] = [{} for _ in index.corpora]
        for step in stream:
            out = predict("answer", variables, step)
            batch = step.batch
            for g, k in zip(*batch["example_mask"].nonzero(), strict=True):
                c, row = int(batch["corpus"][g]), int(batch["example_id"][g, k, 1])
                question = index.annotation(c, row)["question_id"]
                found[c][question] = self.settings.answers.answers[
                    int(out["answer"][g, k])
                ]
        return found

    def write(self, path: Path, found: dict[int, str], index: Index) -> None:
        """Writes the predictions of a single corpus in the test server's format.

        Raises:
          InputError: the test server would refuse the file.
        """
        write_results(path, found)
        validate(path, (a["question_id"] for a in self._annotations(index, 0)))

    @staticmethod
    def _annotations(index: Index, c: int) -> Iterator[dict[str, Any]]:
        return (index.annotation(c, row) for row in range(index.num_texts(c)))


def _name(kind: str) -> str:
    return "accuracy_" + re.sub(r"\W+", "_", kind).strip("_")
