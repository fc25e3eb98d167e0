"""Two optimizers side by side: SGD for the CNN, AdamW for everything else.

arXiv 2004.00849, section 4.1. Ordered path rules put every parameter into a group
of `config.optim.groups`, or into "frozen": no gradient, no optimizer state, no decay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from pixel_bert_jax import trees
from pixel_bert_jax.config import Optim, OptimGroup
from pixel_bert_jax.training import durations
from pixel_bert_jax.types import InputError, Params, nearest

FROZEN = "frozen"


class Optimizer(NamedTuple):
    """What a training step needs to turn gradients into updates."""

    transform: optax.GradientTransformation  # over the flat dict of trainable leaves
    schedule: Callable[[Array], Array]  # step -> factor of every group's rate
    groups: dict[str, str]  # parameter path -> group, "frozen" included

    @property
    def trainable(self) -> tuple[str, ...]:
        """Paths of the parameters that are trained."""
        return tuple(p for p, group in self.groups.items() if group != FROZEN)


def build(
    config: Optim,
    params: Params,
    *,
    frozen: Sequence[str] = (),
    steps_per_epoch: int,
    total: int,
) -> Optimizer:
    """Builds the optimizer of `config.optim`.

    Args:
      config: `config.optim`.
      params: nested dict of arrays or shapes.
      frozen: patterns of paths that are not trained, before any rule.
      steps_per_epoch: steps that "1 epoch" means.
      total: steps of the whole run.

    Raises:
      InputError: a rule names an unknown group, or matches no parameter.
    """
    groups = config.groups
    for pattern, name in config.rules:
        if name != FROZEN and name not in groups:
            raise InputError(
                f"optim.rules: pattern {pattern!r} names group {name!r}"
                f"{nearest(name, groups)}; valid: {', '.join([*groups, FROZEN])}"
            )
    paths = list(trees.flatten(params))
    rules = [*((pattern, FROZEN) for pattern in frozen), *config.rules]
    labels = trees.match_rules(rules, paths)
    unused = trees.unused_rules(rules, paths)
    if unused:
        raise InputError(
            f"optim.rules: {', '.join(map(repr, unused))} decide no parameter; "
            f"the first paths are {', '.join(paths[:3])}"
        )
    transforms = {name: _transform(fields) for name, fields in groups.items()}
    trained = {path: label for path, label in labels.items() if label != FROZEN}
    # Clipping sees all trainable gradients at once, before they are split by group.
    transform = optax.chain(
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm
        else optax.identity(),
        optax.partition(transforms, trained),
    )
    schedule = step_schedule(
        warmup=durations.steps(
            config.warmup, steps_per_epoch=steps_per_epoch, total=total
        ),
        warmup_factor=config.warmup_factor,
        decays=[
            durations.steps(d, steps_per_epoch=steps_per_epoch, total=total)
            for d in config.decays
        ],
        decay_factor=config.decay_factor,
    )
    return Optimizer(transform, schedule, labels)


def _transform(fields: OptimGroup) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(fields.weight_decay)
    rate = fields.learning_rate
    if fields.kind == "sgd":
        # As torch: the L2 term joins the gradient before the momentum.
        parts = (decay, optax.trace(decay=fields.momentum))
    else:
        # Decoupled: the decay joins after Adam's scaling.
        adam = optax.scale_by_adam(fields.beta1, fields.beta2, fields.epsilon)
        parts = (adam, decay)
    return optax.chain(*parts, optax.scale(-rate))


def step_schedule(
    *, warmup: int, warmup_factor: float, decays: Sequence[int], decay_factor: float
) -> Callable[[Array], Array]:
    """Linear warm-up from `warmup_factor` to 1, then a factor at each decay.

    Args:
      warmup: steps until the factor reaches 1.
      warmup_factor: factor of the first step.
      decays: steps from which `decay_factor` applies once more.
      decay_factor: e.g. 0.1.

    Returns:
      A function of the step (int32 scalar) that gives a float32 factor.
    """
    # optax.linear_schedule is off by up to two units in the last place, this by one;
    # and optax.piecewise_constant_schedule takes two decays at one step for one.

    def factor(step: Array) -> Array:
        progress = jnp.minimum(step.astype(jnp.float32) / max(warmup, 1), 1.0)
        value = warmup_factor + (1.0 - warmup_factor) * progress
        if not warmup:
            value = jnp.ones(())
        passed = sum((step >= d).astype(jnp.float32) for d in decays)
        return value * jnp.float32(decay_factor) ** passed

    return factor
