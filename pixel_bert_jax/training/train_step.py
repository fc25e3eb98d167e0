"""One training step: views, forward and backward passes over micro-batches, update.

Views are made, and every objective's divisor is counted, once for the whole global
batch; then a scan accumulates micro-batches. The result of the step therefore does not
depend on how the batch was split (up to rounding, with dropout 0 and frozen norm).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pixel_bert_jax import trees
from pixel_bert_jax.config import Config
from pixel_bert_jax.data.fields import LARGE
from pixel_bert_jax.models.norm import update_running
from pixel_bert_jax.tasks.task import Task
from pixel_bert_jax.training import sharding
from pixel_bert_jax.training.optim import Optimizer
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import Batch, Params, Sums

Step = Callable[[TrainState, Batch], tuple[TrainState, Sums]]

# Names in `Sums`: the number of consecutive updates that were not finite, and the index
# of the first gradient that is not finite among all, sorted by path; -1 if none.
SKIPPED, NOT_FINITE = "skipped_in_a_row", "first_not_finite"


class Gradients(NamedTuple):
    """What a step computes before it updates anything.

    Attributes:
      grads: gradients by path of the trainable parameters.
      metrics: metrics as sums.
      moments: batch statistics of norms that are not frozen, added over micro-batches.
      updates: arrays for the carried state of objectives, stacked: [A, ...].
    """

    grads: dict[str, Array]
    metrics: Sums
    moments: Params
    updates: dict[str, Params]


def build(task: Task, optimizer: Optimizer, mesh: Mesh, config: Config) -> Step:
    """Returns the pure function (state, batch) -> (state, metrics as sums).

    Returns:
      A function to be jitted with its first argument donated. Batch leaves are
      [A, G / A, ...] with prepared images.
    """
    gradients = build_gradients(task, optimizer, mesh, config.sharding)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        found = gradients(state, batch)
        flat = trees.flatten(state.params)
        trainable = {path: flat[path] for path in found.grads}
        norm = optax.tree.norm(found.grads)
        # optax's Adam raises a float to the power of an int32 counter, which strict
        # type promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.transform.update(
                found.grads, state.opt_state, trainable
            )
        # The transform holds each group's constant rate; one factor serves all groups.
        factor = optimizer.schedule(state.step)
        updates = jax.tree.map(lambda u: u * factor, updates)
        params = trees.unflatten(flat | optax.apply_updates(trainable, updates))
        batch_stats = update_running(
            state.batch_stats, found.moments, config.model.norm_momentum
        )
        carried = task.carry(state.carried, found.updates, params)
        # A gradient that is not finite skips the update: all but the step (and with it
        # the schedule) stays as it was, to the bit.
        finite = jnp.isfinite(norm)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        skipped = jnp.where(finite, 0, state.skipped + 1).astype(jnp.int32)
        wrong = [
            ~jnp.all(jnp.isfinite(found.grads[path])) for path in sorted(found.grads)
        ]
        wrong = jnp.stack(wrong)
        # -1 as well if all gradients are finite and only their norm overflows.
        first = jnp.where(jnp.any(wrong), jnp.argmax(wrong), -1)
        one = jnp.ones(())
        metrics = found.metrics | {
            "gradient_norm": (norm, one),
            "rate_factor": (factor, one),
            SKIPPED: (skipped.astype(jnp.float32), one),
            NOT_FINITE: (first.astype(jnp.float32), one),
        }
        return (
            state.replace(
                step=state.step + 1,
                params=keep(params, state.params),
                batch_stats=keep(batch_stats, state.batch_stats),
                opt_state=keep(opt_state, state.opt_state),
                skipped=skipped,
                carried=keep(carried, state.carried),
            ),
            metrics,
        )

    return step


def build_gradients(
    task: Task, optimizer: Optimizer, mesh: Mesh, rules: Sequence[tuple[str, str]]
) -> Callable[[TrainState, Batch], Gradients]:
    """Returns the function (state, batch) -> `Gradients`."""
    split = NamedSharding(mesh, sharding.BATCH_SPEC)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def share(x: Array) -> Array:
        return jax.lax.with_sharding_constraint(x, everywhere)

    def gradients(state: TrainState, batch: Batch) -> Gradients:
        accumulate = batch["example_mask"].shape[0]
        # Texts and ids are small: joined over micro-batches, so that views and divisors
        # are those of the whole batch. Images stay where they are.
        small = {name: _join(x) for name, x in batch.items() if name not in LARGE}
        views = task.views(small, state.rng, state.step)
        counts = {k: jnp.maximum(c, 1.0) for k, c in task.counts(views).items()}
        # Back into micro-batches, split over the mesh as the images are.
        views = jax.tree.map(
            lambda x: jax.lax.with_sharding_constraint(
                x.reshape(accumulate, -1, *x.shape[1:]), split
            ),
            views,
        )
        # Differentiate with respect to trainable parameters only: frozen ones cost no
        # backward pass.
        flat = trees.flatten(state.params)
        trainable = {path: flat[path] for path in optimizer.trainable}

        def objective(
            trainable: dict[str, Array], batch: Batch, views: Any, micro: Any
        ) -> tuple[Array, tuple[Sums, Params, Params]]:
            params = sharding.gathered(trees.unflatten(flat | trainable), mesh, rules)
            out = task.losses(
                {"params": params, "batch_stats": state.batch_stats},
                state.carried,
                batch,
                views,
                state.rng,
                state.step,
                micro=micro,
                share=share,
            )
            # A sum divided by the count of the whole batch: micro-batches just add.
            total = sum(
                task.weights[name] * loss / counts[name]
                for name, loss in out.totals.items()
            )
            metrics = {"loss": (total, jnp.ones(()))} | out.metrics
            return total, (metrics, out.moments, out.updates)

        def one(batch: Batch, views: Any, micro: Any) -> tuple[Any, Any]:
            """Returns what is added over micro-batches, and what is stacked."""
            grads, (metrics, moments, updates) = jax.grad(objective, has_aux=True)(
                trainable, batch, views, micro
            )
            return (grads, metrics, moments), updates

        # A single micro-batch needs no accumulators.
        if accumulate == 1:
            first = jax.tree.map(lambda x: x[0], (batch, views))
            added, updates = one(*first, 0)
            updates = jax.tree.map(lambda x: x[None], updates)
        else:
            scanned = (batch, views, jnp.arange(accumulate))
            shapes, _ = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], scanned))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

            def add(total: Any, micro: Any) -> tuple[Any, Any]:
                now, updates = one(*micro)
                return jax.tree.map(jnp.add, total, now), updates

            added, updates = jax.lax.scan(add, zeros, scanned)
        grads, metrics, moments = added
        # Each micro-batch gave its share of the loss; the sum is the loss itself.
        metrics["loss"] = (metrics["loss"][0], jnp.ones(()))
        return Gradients(grads, metrics, moments, updates)

    return gradients


def _join(x: Array) -> Array:
    """Maps [A, G / A, ...] to [G, ...]."""
    return x.reshape(-1, *x.shape[2:])
