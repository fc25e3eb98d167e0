"""What a block keeps for its backward pass, and what is recomputed."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import primitives

from pixel_bert_jax.types import InputError, nearest


def _products(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keeps the results of matrix products and convolutions, which cost most."""
    return primitive in (primitives.dot_general_p, primitives.conv_general_dilated_p)


# Name in `config.model.remat` -> policy of `jax.checkpoint`.
POLICIES = {"dots": _products, "full": jax.checkpoint_policies.nothing_saveable}


def remat(block: type[nn.Module], name: str) -> type[nn.Module]:
    """Returns a module class whose activations are not all kept.

    Args:
      block: a module whose call takes arrays only.
      name: "none" keeps everything, "dots" the results of products and
        convolutions, "full" only the block's inputs.

    Raises:
      InputError: another name.
    """
    if name == "none":
        return block
    if name not in POLICIES:
        valid = ("none", *POLICIES)
        raise InputError(
            f"model.remat: {name!r} is unknown{nearest(name, valid)}; valid: "
            f"{', '.join(valid)}"
        )
    return nn.remat(block, policy=POLICIES[name])
