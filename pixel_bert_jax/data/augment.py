"""Random sizes and mirrored images in training, if they are asked for.

Each image is resized to a shorter side drawn from `data.random_short_side` to
`data.short_side`, and mirrored with probability 1/2 if `data.mirror` is set; captions
that say "left" and "right" are then wrong half of the time. The paper states neither;
SOHO, by the same authors, draws sizes in fine-tuning for VQA.

Draws are a pure function of seed, step and example, so that a resumed run repeats them
and an example's draw does not depend on its batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pixel_bert_jax.data.geometry import MINIMUM_SIDE
from pixel_bert_jax.types import InputError

_TAG = 0x617567  # apart from the streams of the plan


class Augmentation(NamedTuple):
    """What is drawn.

    Attributes:
      seed: `config.seed`.
      least: smallest shorter side in pixels; 0: sizes are not drawn.
      greatest: largest shorter side, `data.short_side`.
      mirror: whether half of the images are mirrored.
    """

    seed: int
    least: int
    greatest: int
    mirror: bool

    @classmethod
    def of(cls, seed: int, least: int, greatest: int, mirror: bool) -> Augmentation:
        """Checks the range of sizes.

        Raises:
          InputError: the smallest size is too small, or above the largest.
        """
        if least and not MINIMUM_SIDE <= least <= greatest:
            raise InputError(
                f"data.random_short_side is {least}, expected 0 (no random sizes) or "
                f"{MINIMUM_SIDE} to data.short_side = {greatest}"
            )
        return cls(seed, least, greatest, mirror)

    def __bool__(self) -> bool:
        return bool(self.least or self.mirror)

    def draw(
        self, step: int, example_id: np.ndarray, images: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws for every image of a batch.

        Args:
          step: number of the batch.
          example_id: uint32 [G, K, 2]; a group is known by its first text.
          images: M.

        Returns:
          Shorter sides, int64 [G, M], and which images are mirrored, bool [G, M].
        """
        groups = len(example_id)
        short = np.full((groups, images), self.greatest, np.int64)
        mirrored = np.zeros((groups, images), bool)
        for g, name in enumerate(example_id[:, 0].tolist()):
            random = np.random.default_rng((_TAG, self.seed, step, *name))
            if self.least:
                short[g] = random.integers(self.least, self.greatest + 1, images)
            if self.mirror:
                mirrored[g] = random.random(images) < 0.5
        return short, mirrored
