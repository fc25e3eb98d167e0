"""What a task is: model, objectives, and what can be predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jax import Array

from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.types import Batch, Params, Sums


class Losses(NamedTuple):
    """Result of one forward pass over a micro-batch."""

    losses: dict[str, Array]  # objective name -> summed loss
    sums: Sums
    moments: Params  # statistics for the running values of live norms


class Task(Protocol):
    """Owns model and objectives; the training loop only keeps time.

    Attributes:
      weights: multiplier of each objective's loss.
      frozen: patterns of the paths of parameters that the model does not train.
      predict: pure functions of (variables, batch) that evaluators name.
    """

    weights: Mapping[str, float]
    frozen: Sequence[str]
    predict: Mapping[str, Callable[[Params, Batch], dict[str, Array]]]

    def init(self, key: Array) -> Params:
        """Returns the variables {"params", "batch_stats"} from scratch."""

    def views(self, batch: Batch, key: Array, step: Array) -> dict[str, View]:
        """Makes every view that the objectives read, for the whole global batch."""

    def counts(self, views: Mapping[str, View]) -> dict[str, Array]:
        """Returns what each objective's summed loss is divided by."""

    def losses(
        self,
        variables: Params,
        batch: Batch,
        views: Mapping[str, View],
        key: Array,
        step: Array,
        *,
        micro: Any,
    ) -> Losses:
        """Runs micro-batch number `micro` forward in training mode."""
