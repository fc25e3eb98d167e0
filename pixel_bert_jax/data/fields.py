"""The arrays of a batch: name, type and shape of each.

`BatchMaker`, `Stream`, the training step and the dry run all refer to this table.

  image          original pixels in the top left corner of the source canvas, else zero
  source_size    (height, width) of those pixels
  image_size     (height, width) that they are resized to
  image_id       number of the image; -1 for no image
  corpus         -1 for an empty group
  text_ids       tokens, padded to the index's `max_text_length`
  text_mask      True = real token
  example_id     names the example; random draws are keyed by it
  example_mask   False = empty slot or failed image

The sizes of an empty group or of a failed image are (0, 0). An `EvaluationPlan` with
partners adds each slot's negative text and each group's other image, with the same
meaning. The targets of a task (`targets.py`) are further fields. Instead of `image`
and `source_size`, a batch with a frozen CNN may have

  features       its output, in the top left corner of the canvas's grid, else zero
  features_size  (height, width) of it in cells
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a batch.

    Attributes:
      dtype: numpy type.
      shape: axes after the axis of the groups, each a number or a letter: M images and
        K texts of a group, L tokens of a text, S side of the source canvas, H and W of
        the canvas, h and w of the CNN's grid of it, C channels, A answers.
      large: whether the array stays on its devices and is not gathered when views are
        made.
    """

    dtype: Any
    shape: tuple[str | int, ...]
    large: bool = False


FIELDS: Mapping[str, Field] = {
    "image": Field(np.uint8, ("M", "S", "S", 3), large=True),
    "source_size": Field(np.int32, ("M", 2)),
    "image_size": Field(np.int32, ("M", 2)),
    "image_id": Field(np.int32, ("M",)),
    "corpus": Field(np.int32, ()),
    "text_ids": Field(np.int32, ("K", "L")),
    "text_mask": Field(np.bool_, ("K", "L")),
    "example_id": Field(np.uint32, ("K", 2)),
    "example_mask": Field(np.bool_, ("K",)),
}
EVALUATION_FIELDS: Mapping[str, Field] = {
    "negative_ids": FIELDS["text_ids"],
    "negative_mask": FIELDS["text_mask"],
    "other_image": FIELDS["image"],
    "other_source_size": FIELDS["source_size"],
    "other_image_size": FIELDS["image_size"],
}
"""Fields that an `EvaluationPlan` with partners adds to `FIELDS`."""

FEATURE_FIELDS: Mapping[str, Field] = {
    "features": Field(np.float32, ("M", "h", "w", "C"), large=True),
    "features_size": Field(np.int32, ("M", 2)),
}
"""Fields instead of `image` and `source_size`."""

OTHER = "other_"  # begins the names of the fields of a partner's image
LARGE = frozenset(
    prefix + name
    for name, field in {**FIELDS, **FEATURE_FIELDS}.items()
    if field.large
    for prefix in ("", OTHER)
)
"""Names of the arrays that stay on their devices."""


def with_features(fields: Mapping[str, Field], dtype: Any) -> dict[str, Field]:
    """Returns the fields of a batch that has features instead of images.

    Args:
      fields: of the batch with images.
      dtype: numpy type of the features.
    """
    instead = dict(zip(("image", "source_size"), FEATURE_FIELDS, strict=True))
    out = {}
    for name, field in fields.items():
        prefix = OTHER if name.startswith(OTHER) else ""
        new = instead.get(name.removeprefix(OTHER))
        if new is None:
            out[name] = field
            continue
        field = FEATURE_FIELDS[new]
        kept = field.dtype if not field.large else dtype
        out[prefix + new] = dataclasses.replace(field, dtype=kept)
    return out


def prepared(fields: Mapping[str, Field]) -> dict[str, Field]:
    """Returns the fields of a batch after `ops.image.prepare_images`.

    Images are then float32 on their canvas, and source sizes are dropped.
    """
    out = {}
    for name, field in fields.items():
        if name.endswith("source_size"):
            continue
        if field.shape[-3:] == ("S", "S", 3):
            shape = (*field.shape[:-3], "H", "W", 3)
            field = Field(np.float32, shape, field.large)
        out[name] = field
    return out


def shapes(
    fields: Mapping[str, Field], sizes: Mapping[str, int]
) -> dict[str, tuple[Shape, Any]]:
    """Returns {name: (shape after the axis of the groups, dtype)}.

    Args:
      fields: of the batch.
      sizes: the size of each axis that is named by a letter.

    Raises:
      KeyError: the size of an axis is missing.
    """
    return {
        name: (
            tuple(sizes[axis] if isinstance(axis, str) else axis for axis in f.shape),
            f.dtype,
        )
        for name, f in fields.items()
    }
