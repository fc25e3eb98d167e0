"""Evaluators by task: a new one is one file here and one line below."""

from pixel_bert_jax.evaluators.probe import Probe

# Task name -> (name of the task's predict function, evaluator).
EVALUATORS = {"pretrain": ("probe", Probe)}
