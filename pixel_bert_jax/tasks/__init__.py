"""Tasks: how model and objectives are run, and what can be predicted.

A task is its objectives and an evaluator; a new one is a line in TASKS, beside what it
adds to `objectives`, `evaluators` and PREDICTIONS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pixel_bert_jax.tasks import nlvr2, pretrain, retrieval, vqa
from pixel_bert_jax.tasks.task import Task

__all__ = ["PREDICTIONS", "TASKS", "Task"]

# `config.task.name` -> the evaluator of runs that name none in `config.evals`.
TASKS = {
    "pretrain": "probe",
    "vqa": "vqa",
    "nlvr2": "nlvr2",
    "retrieval": "retrieval",
}

# What evaluators ask for by name: pure functions (task, variables, batch) -> arrays.
PREDICTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "probe": pretrain.probe,
    "answer": vqa.answer,
    "judge": nlvr2.judge,
    "pixels": retrieval.pixels,
    "score": retrieval.score,
    "words": retrieval.words,
}
