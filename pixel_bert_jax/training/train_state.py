"""What a training run carries from step to step, born sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.sharding import Mesh

from pixel_bert_jax import trees
from pixel_bert_jax.tasks.task import Task
from pixel_bert_jax.training import sharding
from pixel_bert_jax.training.optim import Optimizer
from pixel_bert_jax.types import Params


@struct.dataclass
class TrainState:
    """Everything that a bit-exact resume needs."""

    step: Array  # int32 scalar: batches consumed
    params: Params
    batch_stats: Params  # running statistics of norms
    opt_state: Any  # over the trainable parameters alone
    rng: Array  # base key, never advanced: every draw folds the step into it
    skipped: Array  # int32 scalar: updates in a row that were not finite
    # What objectives carry (queues, momentum weights), by their names.
    carried: Params = struct.field(default_factory=dict)

    @property
    def variables(self) -> Params:
        """The variables that a task's functions take."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def initial(task: Task, optimizer: Optimizer, seed: int) -> TrainState:
    """Returns the state before the first step, from scratch."""
    key = jax.random.key(seed)
    variables = task.init(jax.random.fold_in(key, 0))
    flat = trees.flatten(variables["params"])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.transform.init({p: flat[p] for p in optimizer.trainable}),
        rng=jax.random.fold_in(key, 1),
        skipped=jnp.zeros((), jnp.int32),
        carried=task.carried(variables["params"]),
    )


def abstract(
    task: Task, optimizer: Optimizer, seed: int, mesh: Mesh, rules: Any
) -> TrainState:
    """Returns the state's shapes with the sharding of every leaf; computes nothing."""
    shapes = jax.eval_shape(lambda: initial(task, optimizer, seed))
    params = sharding.parameter_shardings(shapes.params, mesh, rules)
    shardings = sharding.state_shardings(shapes, params, mesh)
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        shapes,
        shardings,
    )


def create(
    task: Task, optimizer: Optimizer, seed: int, target: TrainState
) -> TrainState:
    """Makes the initial state, each leaf where `target` (of `abstract`) says.

    Nothing ever lies whole on one device.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    make = jax.jit(lambda: initial(task, optimizer, seed), out_shardings=shardings)
    return make()
