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

    transform: optax.GradientTransformation  # on the flat dict of trainable leaves
    schedule: Callable[[Array], Array]  # step -> factor of every group's rate
    groups: dict[str, str]  # parameter path -> group, "frozen" included

    @property
    def trainable(self) -> tuple[str, ...]:
        """Paths of the trainable parameters."""
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
      frozen: patterns of paths that are not trained; they come before the rules.
      steps_per_epoch: steps of one epoch.
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
    # The first match wins: what the model freezes stays frozen under any rule.
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
    # Clip by the norm of all trainable gradients, before they are split by group.
    transform = optax.chain(
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm
        else optax.identity(),
        optax.partition(transforms, trained),
    )
    schedule = _schedule(config, steps_per_epoch, total)
    return Optimizer(transform, schedule, labels)


def _schedule(
    config: Optim, steps_per_epoch: int, total: int
) -> Callable[[Array], Array]:
    """Returns the schedule that the config describes.

    Raises:
      InputError: `decays` of a schedule that has none.
    """
    lengths = {"steps_per_epoch": steps_per_epoch, "total": total}
    warmup = durations.steps(config.warmup, **lengths)
    if config.schedule != "steps":
        if config.decays:
            raise InputError(
                f"optim.schedule is {config.schedule!r}, which falls to zero without "
                f"optim.decays = {config.decays}; give optim.decays=()"
            )
        return to_zero_schedule(
            config.schedule,
            warmup=warmup,
            warmup_factor=config.warmup_factor,
            total=total,
        )
    return step_schedule(
        warmup=warmup,
        warmup_factor=config.warmup_factor,
        decays=[durations.steps(d, **lengths) for d in config.decays],
        decay_factor=config.decay_factor,
    )


def _transform(fields: OptimGroup) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(fields.weight_decay)
    rate = fields.learning_rate
    if fields.kind == "sgd":
        # As in torch, the L2 term is added to the gradient before the momentum.
        parts = (decay, optax.trace(decay=fields.momentum))
    else:
        # Decoupled: the decay is added after Adam's scaling.
        adam = optax.scale_by_adam(fields.beta1, fields.beta2, fields.epsilon)
        parts = (adam, decay)
    return optax.chain(*parts, optax.scale(-rate))


def step_schedule(
    *, warmup: int, warmup_factor: float, decays: Sequence[int], decay_factor: float
) -> Callable[[Array], Array]:
    """Returns a linear warm-up from `warmup_factor` to 1, then a factor per decay.

    Args:
      warmup: steps until the factor reaches 1.
      warmup_factor: factor of the first step.
      decays: steps from which on `decay_factor` is applied once more.
      decay_factor: e.g. 0.1.

    Returns:
      A function of the step (int32 scalar) that gives a float32 factor.
    """
    # optax.linear_schedule is off by up to two units in the last place, this by one;
    # and optax.piecewise_constant_schedule applies two decays at one step only once.

    def factor(step: Array) -> Array:
        value = _warmed_up(step, warmup, warmup_factor)
        passed = sum((step >= d).astype(jnp.float32) for d in decays)
        return value * jnp.float32(decay_factor) ** passed

    return factor


def to_zero_schedule(
    kind: str, *, warmup: int, warmup_factor: float, total: int
) -> Callable[[Array], Array]:
    """Returns a linear warm-up from `warmup_factor` to 1, then a fall to zero.

    Args:
      kind: "linear", or "cosine": (1 + cos(pi t)) / 2 at the share t of the steps after
        the warm-up (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
      warmup: steps until the factor reaches 1.
      warmup_factor: factor of the first step.
      total: steps of the whole run; the factor would be zero at the step after the last
        one.

    Returns:
      A function of the step (int32 scalar) that gives a float32 factor.
    """

    def factor(step: Array) -> Array:
        share = (step - warmup).astype(jnp.float32) / max(total - warmup, 1)
        share = jnp.clip(share, 0.0, 1.0)
        fall = 1.0 - share if kind == "linear" else (1.0 + jnp.cos(jnp.pi * share)) / 2
        return _warmed_up(step, warmup, warmup_factor) * fall

    return factor


def _warmed_up(step: Array, warmup: int, warmup_factor: float) -> Array:
    if not warmup:
        return jnp.ones(())
    progress = jnp.minimum(step.astype(jnp.float32) / warmup, 1.0)
    return warmup_factor + (1.0 - warmup_factor) * progress
