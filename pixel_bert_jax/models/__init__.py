"""Networks in Flax Linen: backbone, front end, encoder, heads.

A new backbone or front end is one file here and one line below. A backbone maps images
[N, H, W, 3] and their sizes [N, 2] to features [N, h, w, C] and valid sizes [N, 2]; a
front end maps these to `VisualTokens`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from pixel_bert_jax.config import Model
from pixel_bert_jax.models.efficientnet_lite import EfficientNetLite
from pixel_bert_jax.models.front_ends import PixelFrontEnd
from pixel_bert_jax.models.resnet import ResNet
from pixel_bert_jax.types import InputError, nearest

# `config.model.backbone.name` and `config.model.front_end.name` -> module.
BACKBONES: dict[str, type[nn.Module]] = {
    "resnet": ResNet,
    "efficientnet_lite": EfficientNetLite,
}
FRONT_ENDS: dict[str, type[nn.Module]] = {"pixels": PixelFrontEnd}


def frozen_patterns(model: Model) -> tuple[str, ...]:
    """Returns patterns of the paths of parameters that the backbone does not train.

    Args:
      model: config.model.

    Raises:
      InputError: there is no such backbone.
    """
    fields = model.backbone
    name = fields["name"]
    if name not in BACKBONES:
        raise InputError(
            f"model.backbone.name is {name!r}{nearest(name, BACKBONES)}; valid: "
            f"{', '.join(BACKBONES)}"
        )
    return tuple(BACKBONES[name].frozen_patterns(fields))


def build(
    table: Mapping[str, type[nn.Module]],
    section: str,
    fields: Mapping[str, Any],
    **shared: Any,
) -> nn.Module:
    """Makes the module that a section of the config describes.

    Args:
      table: modules by name.
      section: path of the section, such as "model.backbone", for messages.
      fields: the section: "name" and the module's attributes.
      **shared: further attributes, which the section may not set.

    Raises:
      InputError: the table has no such module, or the module has no such field.
    """
    fields = dict(fields)
    kind = fields.pop("name")
    if kind not in table:
        raise InputError(
            f"{section}.name is {kind!r}{nearest(kind, table)}; valid: "
            f"{', '.join(table)}"
        )
    known = {f.name for f in dataclasses.fields(table[kind]) if f.init}
    known -= {"parent", "name", *shared}
    for name in fields:
        if name not in known:
            raise InputError(
                f"{section} = {kind!r} has no field {name!r}{nearest(name, known)}; "
                f"valid: {', '.join(sorted(known))}"
            )
    return table[kind](**fields, **shared)
