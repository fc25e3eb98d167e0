"""Evaluators by type: a new one is one file here and one line below."""

from pixel_bert_jax.evaluators.base import Evaluator
from pixel_bert_jax.evaluators.nlvr2 import Nlvr2Evaluator
from pixel_bert_jax.evaluators.probe import Probe
from pixel_bert_jax.evaluators.retrieval import RetrievalEvaluator
from pixel_bert_jax.evaluators.vqa import VqaEvaluator

# `type` in `config.evals`.
EVALUATORS: dict[str, type[Evaluator]] = {
    "probe": Probe,
    "vqa": VqaEvaluator,
    "nlvr2": Nlvr2Evaluator,
    "retrieval": RetrievalEvaluator,
}
