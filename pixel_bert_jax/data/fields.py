"""What a batch holds: name, type and shape of every array, said once; numpy only.

`BatchMaker` takes types and order from here, `Stream` the types of its tensors, the
training step which arrays stay on their devices, the dry run all of it.

  image          original pixels in the top left of a square, zero beside them
  source_size    (height, width) of those pixels
  image_size     (height, width) that they are resized to
  image_id       number of the image; -1 for no image
  corpus         -1 for an empty group
  text_ids       padded to the index's `max_text_length`
  text_mask      True = real token
  example_id    which example it is: random draws are keyed by it
  example_mask   False = empty slot or failed image

The sizes of an empty group or of a failed image are (0, 0). An `EvaluationPlan` with
partners adds each slot's negative text and each group's other image, with the same
meaning. Targets that a task learns (`targets.py`) are further fields.
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
      shape: axes after that of the groups, each a number or a letter: M images and K
        texts of a group, L tokens of a text, S side of the source canvas, H and W of
        the canvas, A answers.
      large: stays on its devices, is never gathered when views are made.
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
"""Of an `EvaluationPlan` with partners, beside `FIELDS`."""

LARGE = frozenset(
    name for name, field in {**FIELDS, **EVALUATION_FIELDS}.items() if field.large
)
"""Names of the arrays that stay on their devices."""


def prepared(fields: Mapping[str, Field]) -> dict[str, Field]:
    """Returns the fields of a batch after `ops.image.prepare_images`.

    Images are float32 on their canvas, and no source size is left.
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
      sizes: number that each letter stands for.

    Raises:
      KeyError: a letter has no number.
    """
    return {
        name: (
            tuple(sizes[axis] if isinstance(axis, str) else axis for axis in f.shape),
            f.dtype,
        )
        for name, f in fields.items()
    }
