"""One training step: views, forward and backward over micro-batches, update.

Views are made, and every objective's divisor is counted, once for the whole global
batch; then micro-batches are accumulated by a scan. So the step's result does not
depend on how the batch was split (up to rounding; with dropout 0 and frozen norm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding

from pixel_bert_jax import trees
from pixel_bert_jax.data.fields import LARGE
from pixel_bert_jax.models.norm import update_running
from pixel_bert_jax.tasks.base import Task
from pixel_bert_jax.training import sharding
from pixel_bert_jax.training.optim import Optimizer
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import Batch, Params, Sums

Step = Callable[[TrainState, Batch], tuple[TrainState, Sums]]

# Of `Sums`: place of the first gradient that is not finite among all, sorted by path;
# -1 if there is none.
NOT_FINITE = "first_not_finite"


def build(
    task: Task, optimizer: Optimizer, mesh: Mesh, config: Mapping[str, Any]
) -> Step:
    """Returns the pure function (state, batch) -> (state, metrics as sums).

    Args:
      task: gives views and losses.
      optimizer: of `optim.build`.
      mesh: the batch lies on.
      config: `model.norm_momentum` and `sharding`.

    Returns:
      A function to be jitted with its first argument donated. Batch leaves are
      [A, G / A, ...] with prepared images.
    """
    gradients = build_gradients(task, optimizer, mesh, config["sharding"])
    momentum = config["model"]["norm_momentum"]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        grads, sums, moments = gradients(state, batch)
        flat = trees.flatten(state.params)
        trainable = {path: flat[path] for path in grads}
        norm = optax.tree.norm(grads)
        # Our own code keeps strict dtype promotion (the tests run under it); optax's
        # Adam raises a float to an int32 counter.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.transform.update(
                grads, state.opt_state, trainable
            )
        factor = optimizer.schedule(state.step)
        updates = jax.tree.map(lambda u: u * factor, updates)
        params = trees.unflatten(flat | optax.apply_updates(trainable, updates))
        batch_stats = update_running(state.batch_stats, moments, momentum)
        # A gradient that is not finite skips the update; everything but the step and
        # with it the schedule stays as it was, to the bit.
        finite = jnp.isfinite(norm)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        sums = sums | {
            "gradient_norm": (norm, jnp.ones(())),
            "rate_factor": (factor, jnp.ones(())),
        }
        skipped = jnp.where(finite, 0, state.skipped + 1).astype(jnp.int32)
        sums["skipped_in_a_row"] = (skipped.astype(jnp.float32), jnp.ones(()))
        wrong = [~jnp.all(jnp.isfinite(grads[path])) for path in sorted(grads)]
        wrong = jnp.stack(wrong)
        # Of finite gradients only the norm may overflow.
        first = jnp.where(jnp.any(wrong), jnp.argmax(wrong), -1)
        sums[NOT_FINITE] = (first.astype(jnp.float32), jnp.ones(()))
        return (
            state.replace(
                step=state.step + 1,
                params=keep(params, state.params),
                batch_stats=keep(batch_stats, state.batch_stats),
                opt_state=keep(opt_state, state.opt_state),
                skipped=skipped,
            ),
            sums,
        )

    return step


def build_gradients(
    task: Task, optimizer: Optimizer, mesh: Mesh, rules: Sequence[tuple[str, str]]
) -> Callable[[TrainState, Batch], tuple[dict[str, Array], Sums, Params]]:
    """Returns (state, batch) -> (gradients by path, metric sums, norm moments)."""
    split = NamedSharding(mesh, sharding.BATCH_SPEC)

    def gradients(
        state: TrainState, batch: Batch
    ) -> tuple[dict[str, Array], Sums, Params]:
        accumulate = batch["image"].shape[0]
        # Only ids and masks are brought together; images stay where they are.
        small = {k: _join(v) for k, v in batch.items() if k not in LARGE}
        views = task.views(small, state.rng, state.step)
        counts = {k: jnp.maximum(c, 1.0) for k, c in task.counts(views).items()}
        views = jax.tree.map(
            lambda x: jax.lax.with_sharding_constraint(
                x.reshape(accumulate, -1, *x.shape[1:]), split
            ),
            views,
        )
        flat = trees.flatten(state.params)
        trainable = {path: flat[path] for path in optimizer.trainable}

        def objective(
            trainable: dict[str, Array], batch: Batch, views: Any, micro: Any
        ) -> tuple[Array, tuple[Sums, Params]]:
            params = sharding.gathered(trees.unflatten(flat | trainable), mesh, rules)
            variables = {"params": params, "batch_stats": state.batch_stats}
            out = task.losses(
                variables, batch, views, state.rng, state.step, micro=micro
            )
            total = sum(
                task.weights[name] * loss / counts[name]
                for name, loss in out.losses.items()
            )
            return total, ({"loss": (total, jnp.ones(()))} | out.sums, out.moments)

        def one(batch: Batch, views: Any, micro: Any) -> tuple[Any, Any, Any]:
            grads, (sums, moments) = jax.grad(objective, has_aux=True)(
                trainable, batch, views, micro
            )
            return grads, sums, moments

        if accumulate == 1:
            grads, sums, moments = one(*jax.tree.map(lambda x: x[0], (batch, views)), 0)
        else:
            scanned = (batch, views, jnp.arange(accumulate))
            shapes = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], scanned))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

            def body(total: Any, x: Any) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, one(*x)), None

            (grads, sums, moments), _ = jax.lax.scan(body, zeros, scanned)
        # "loss" is a share of the whole batch's loss in each micro-batch.
        sums["loss"] = (sums["loss"][0], jnp.ones(()))
        return grads, sums, moments

    return gradients


def _join(x: Array) -> Array:
    """Maps [A, G / A, ...] to [G, ...]."""
    return x.reshape(-1, *x.shape[2:])
