"""The official accuracy of VQA (GT-Vision-Lab/VQA, vqaEval.py).

A question's score is the mean over its ten human answers of min(1, n / 3), where n is
the number of the other nine that equal the prediction (Antol et al., arXiv 1505.00468).
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pixel_bert_jax.data.vqa_answers import clean, normalise
from pixel_bert_jax.types import InputError

SHOWN = 10  # question ids in a message
ENOUGH = 3  # equal answers of others that give the full score


class Accuracy(NamedTuple):
    """Scores in percent, rounded to two decimals as the official evaluator does.

    Attributes:
      overall: mean over all questions.
      by_answer_type: name -> mean, such as "yes/no", "number", "other".
      by_question_type: name -> mean, such as "what color is the".
      by_question: question id -> score.
    """

    overall: float
    by_answer_type: dict[str, float]
    by_question_type: dict[str, float]
    by_question: dict[int, float]


def question_score(prediction: str, annotation: Mapping[str, Any]) -> float:
    """Returns the score of one question, 0 to 1.

    Args:
      prediction: any text.
      annotation: its "answers" are records, each with an "answer".
    """
    prediction = clean(prediction)
    records = [{**r, "answer": clean(r["answer"])} for r in annotation["answers"]]
    # If all answers agree, neither they nor the prediction are normalised.
    if len({record["answer"] for record in records}) > 1:
        records = [{**r, "answer": normalise(r["answer"])} for r in records]
        prediction = normalise(prediction)
    scores = []
    for left_out in records:
        # Compare records, not positions: duplicate records are left out together, as by
        # the official evaluator.
        same = sum(r != left_out and r["answer"] == prediction for r in records)
        scores.append(min(1, same / ENOUGH))
    return sum(scores) / len(scores)


def accuracy(
    predictions: Mapping[int, str], annotations: Sequence[Mapping[str, Any]]
) -> Accuracy:
    """Scores predictions of all annotated questions.

    Args:
      predictions: question id -> answer.
      annotations: records of the official file, with question_id, question_type,
        answer_type and answers.

    Raises:
      InputError: a question has no prediction, or a prediction no question; names the
        first.
    """
    known = {annotation["question_id"] for annotation in annotations}
    for what, ids in (
        ("questions without a prediction", known - predictions.keys()),
        ("predictions of other questions", predictions.keys() - known),
    ):
        if ids:
            raise InputError(f"{len(ids)} {what}: {sorted(ids)[:SHOWN]}")
    if not annotations:
        raise InputError("no questions to score")
    scores: dict[int, float] = {}
    kinds: dict[str, dict[str, list[float]]] = {"answer_type": {}, "question_type": {}}
    for annotation in annotations:
        number = annotation["question_id"]
        scores[number] = question_score(predictions[number], annotation)
        for kind, groups in kinds.items():
            groups.setdefault(annotation[kind], []).append(scores[number])
    return Accuracy(
        overall=_percent(list(scores.values())),
        by_answer_type={n: _percent(v) for n, v in kinds["answer_type"].items()},
        by_question_type={n: _percent(v) for n, v in kinds["question_type"].items()},
        by_question={n: round(100 * score, 2) for n, score in scores.items()},
    )


def write_results(path: Path, predictions: Mapping[int, str]) -> None:
    """Writes the format of the test server (EvalAI): one record per question."""
    results = [
        {"question_id": number, "answer": answer}
        for number, answer in sorted(predictions.items())
    ]
    path.write_text(json.dumps(results))


def validate(path: Path, question_ids: Iterable[int]) -> None:
    """Checks a file of results as the test server would.

    Args:
      path: a file by `write_results` or another program.
      question_ids: ids of all questions of the split.

    Raises:
      InputError: it is no list of records with an integer question_id and a text
        answer, or questions are missing, foreign or answered twice; names the first.
    """
    try:
        results = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as json: {error}") from error
    if not isinstance(results, list):
        raise InputError(f"{path}: expected a list of records")
    broken = [
        n
        for n, record in enumerate(results)
        if not isinstance(record, dict)
        or set(record) != {"question_id", "answer"}
        or type(record["question_id"]) is not int
        or not isinstance(record["answer"], str)
    ]
    if broken:
        raise InputError(
            f"{path}: {len(broken)} records are not a whole number question_id and a "
            f"text answer; the first is number {broken[0]}: {results[broken[0]]!r}"
        )
    counts = collections.Counter(record["question_id"] for record in results)
    known = set(question_ids)
    for what, ids in (
        ("questions are answered twice", [i for i, n in counts.items() if n > 1]),
        ("questions are missing", known - counts.keys()),
        ("questions are none of this split", counts.keys() - known),
    ):
        if ids:
            raise InputError(f"{path}: {len(ids)} {what}: {sorted(ids)[:SHOWN]}")


def _percent(scores: Sequence[float]) -> float:
    return round(100 * float(sum(scores)) / len(scores), 2)
