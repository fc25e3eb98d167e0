"""Evaluators by task: a new one is one file here and one line below."""

from pixel_bert_jax.evaluators.nlvr2 import Nlvr2Evaluator
from pixel_bert_jax.evaluators.probe import Probe
from pixel_bert_jax.evaluators.vqa import VqaEvaluator

# Task name -> (name of the task's predict function, evaluator).
EVALUATORS = {
    "pretrain": ("probe", Probe),
    "vqa": ("answer", VqaEvaluator),
    "nlvr2": ("judge", Nlvr2Evaluator),
}
