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

from pixel_bert_jax.models.front_ends import PixelFrontEnd
from pixel_bert_jax.models.resnet import ResNet
from pixel_bert_jax.types import InputError, nearest

# `config.model.backbone.name` and `config.model.front_end.name` -> module.
BACKBONES: dict[str, type[nn.Module]] = {"resnet": ResNet}
FRONT_ENDS: dict[str, type[nn.Module]] = {"pixels": PixelFrontEnd}


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
      fields: the section: "name", and attributes of the module.
      **shared: further attributes, which the section cannot set.

    Raises:
      InputError: the table has no such module, or the module no such attribute.
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
