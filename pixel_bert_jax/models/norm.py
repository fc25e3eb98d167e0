"""Batch normalisation over the valid cells of a batch.

`config.model.norm` = "frozen" uses the running statistics as constants. "batch" uses
the statistics of the micro-batch on all devices, over valid cells only; it reports
(count, sum, sum of squares) in the collection "moments", from which the step updates
the running statistics once, after all micro-batches (`update_running`).
Ioffe and Szegedy, arXiv 1502.03167; the running variance is unbiased, as in torch.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.ops.losses import at_least_float32

EPSILON = 1e-5  # torch's BatchNorm2d


class MaskedBatchNorm(nn.Module):
    """Batch norm whose statistics ignore padding.

    Attributes:
      batch_statistics: normalise by the batch's statistics and report them; otherwise
        normalise by the running ones.
      epsilon: added to the variance.
    """

    batch_statistics: bool
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Normalises each channel.

        Args:
          x: [N, h, w, C].
          mask: [N, h, w] bool, True for cells inside the image.

        Returns:
          [N, h, w, C] in x's dtype; padding is not zeroed.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        mean, var = running_mean.value, running_var.value
        if self.batch_statistics:
            values = at_least_float32(x)
            real = mask[..., None].astype(values.dtype)
            values = values * real
            count = jnp.sum(real)
            total = jnp.sum(values, axis=(0, 1, 2))
            squares = jnp.sum(values * values, axis=(0, 1, 2))
            if self.is_mutable_collection("moments"):
                moments = {"count": count, "total": total, "squares": squares}
                self.variable("moments", "sums", lambda: moments).value = moments
            # E[x^2] - E[x]^2 needs sums only, which add over micro-batches.
            batch_mean = total / jnp.maximum(count, 1.0)
            batch_var = squares / jnp.maximum(count, 1.0) - batch_mean**2
            # A batch without a valid cell has no statistics of its own.
            mean = jnp.where(count > 0, batch_mean, mean)
            var = jnp.where(count > 0, jnp.maximum(batch_var, 0.0), var)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)


def update_running(
    batch_stats: dict[str, Any], moments: dict[str, Any], momentum: float
) -> dict[str, Any]:
    """Returns the running statistics after one step.

    running = momentum * running + (1 - momentum) * batch, with the unbiased variance.

    Args:
      batch_stats: nested dict with {"mean", "var"} of each norm.
      moments: the same nesting with {"sums": {"count", "total", "squares"}}, added over
        the step's micro-batches; norms that are absent (frozen) keep their values.
      momentum: weight of the old value.
    """
    if "mean" in batch_stats and "var" in batch_stats:
        if "sums" not in moments:
            return batch_stats
        count, total, squares = (
            moments["sums"][name] for name in ("count", "total", "squares")
        )
        real = jnp.maximum(count, 1.0)
        mean = total / real
        var = jnp.maximum(squares / real - mean**2, 0.0)
        var = var * real / jnp.maximum(real - 1.0, 1.0)  # unbiased
        keep = jnp.where(count > 0, momentum, 1.0)
        return {
            "mean": keep * batch_stats["mean"] + (1.0 - keep) * mean,
            "var": keep * batch_stats["var"] + (1.0 - keep) * var,
        }
    return {
        name: update_running(child, moments.get(name, {}), momentum)
        for name, child in batch_stats.items()
    }
