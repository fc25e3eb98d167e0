"""Predict functions on the devices of a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from pixel_bert_jax import trees
from pixel_bert_jax.config import Rules
from pixel_bert_jax.ops.image import prepare_images
from pixel_bert_jax.tasks import PREDICTIONS, Task
from pixel_bert_jax.training import sharding
from pixel_bert_jax.types import Batch, Params

if TYPE_CHECKING:  # it imports TensorFlow, which using a model does not need
    from pixel_bert_jax.data.pipeline import Step


class PredictFunctions:
    """Runs predict functions on a mesh, each compiled once for each shape.

    Batches are padded with empty groups until they divide evenly over the devices, so
    that any number of groups can be evaluated on any number of devices.

    Attributes:
      alive: called before every batch with a description of it; an exception that it
        raises ends the evaluation.
    """

    def __init__(
        self,
        task: Task,
        mesh: Mesh,
        rules: Rules,
        alive: Callable[[str], None] | None = None,
    ):
        """Compiles nothing yet.

        Args:
          task: its model is used.
          mesh: where functions run.
          rules: `config.sharding`.
          alive: see the attribute; None: nothing is called.
        """
        self._task, self._mesh, self._rules = task, mesh, rules
        self.alive = alive or (lambda what: None)
        self._jitted: dict[str, Callable[[Params, Batch], dict[str, Array]]] = {}

    def _function(self, name: str) -> Callable[[Params, Batch], dict[str, Array]]:
        if name not in self._jitted:
            self._jitted[name] = self._make(name)
        return self._jitted[name]

    def _make(self, name: str) -> Callable[[Params, Batch], dict[str, Array]]:
        predict = PREDICTIONS[name]

        @functools.wraps(predict)
        def run(variables: Params, batch: Batch) -> dict[str, Array]:
            params = sharding.gathered(variables["params"], self._mesh, self._rules)
            return predict(self._task, {**variables, "params": params}, batch)

        return jax.jit(run)

    def __call__(
        self, name: str, variables: Params, step: Step
    ) -> dict[str, np.ndarray]:
        """Runs a predict function on a step of a stream and returns host arrays."""
        out = self.run(name, variables, self.place(step))
        groups = len(step.batch["example_mask"])
        return {key: trees.whole(x)[:groups] for key, x in out.items()}

    def place(self, step: Step) -> Batch:
        """Puts a step of a stream onto the devices and resizes its images there."""
        return prepare_images(self._placed(step.batch), canvas=step.canvas)

    def run(self, name: str, variables: Params, batch: Batch) -> dict[str, Array]:
        """Runs a predict function on arrays; results, padded, stay on the devices."""
        self.alive(f"a batch of {name} in an evaluation")
        host = {k: x for k, x in batch.items() if isinstance(x, np.ndarray)}
        return self._function(name)(variables, {**batch, **self._placed(host)})

    def _placed(self, batch: Batch) -> Batch:
        shards = sharding.data_shards(self._mesh)

        def filled(x: np.ndarray) -> np.ndarray:
            missing = -len(x) % shards
            if not missing:  # the usual case, in which images are not copied
                return x
            return np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))

        full = {key: filled(x) for key, x in batch.items()}
        return sharding.place_whole(full, self._mesh, sharding.EVAL_SPEC)
