"""Tasks: how model and objectives are run, and what can be predicted.

A task consists of objectives and an evaluator. A new one is one line in TASKS, besides
what it adds to `objectives`, `evaluators` and PREDICTIONS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pixel_bert_jax.tasks import nlvr2, pretrain, retrieval, vqa
from pixel_bert_jax.tasks.task import Task

__all__ = ["PREDICTIONS", "TASKS", "Task"]

# `config.task.name` -> evaluator of runs whose `config.evals` is empty.
TASKS = {
    "pretrain": "probe",
    "vqa": "vqa",
    "nlvr2": "nlvr2",
    "retrieval": "retrieval",
}

# Predict functions by name: pure functions (task, variables, batch) -> arrays.
PREDICTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "probe": pretrain.probe,
    "fill": pretrain.fill,
    "answer": vqa.answer,
    "answer_odds": vqa.answer_odds,
    "judge": nlvr2.judge,
    "match": retrieval.match,
    "pixels": retrieval.pixels,
    "score_retrieval": functools.partial(retrieval.score, head="retrieval"),
    "score_itm": functools.partial(retrieval.score, head="itm"),
    "words": retrieval.words,
    "image_vectors": retrieval.image_vectors,
    "text_vectors": retrieval.text_vectors,
}
