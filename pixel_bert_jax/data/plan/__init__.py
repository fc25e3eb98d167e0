"""Which examples form which batch, as a pure function of seed and step; numpy only.

`base` states the rules, `plans` has the two plans, `layout` what no epoch changes.
"""

from pixel_bert_jax.data.plan.base import FORMAT
from pixel_bert_jax.data.plan.plans import EvaluationPlan, TrainPlan
from pixel_bert_jax.data.plan.types import (
    NO_EXAMPLE,
    Bucket,
    BucketStatistics,
    Corpus,
    PlanBatch,
    Statistics,
)

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
