"""Recall at K of image-text retrieval, both ways (as SCAN's evaluation.py, UNITER).

"Text retrieval" looks for an image's texts, of which the best counts; "image retrieval"
for a text's one image. A rank counts from 0. Ties are pessimistic: what has the same
score as the right answer stands before it, so that a model which cannot tell anything
apart finds nothing (the official scripts leave it to an unstable sort).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pixel_bert_jax.types import InputError

FOLD = 1000  # images of one of the five parts of COCO's test split
CUTS = (1, 5, 10)


class Ranks(NamedTuple):
    """Rank of the first right answer to each query, int64.

    Attributes:
      texts: [N], of each image's best text.
      images: [T], of each text's image.
    """

    texts: np.ndarray
    images: np.ndarray


def ranks(scores: np.ndarray, text_image: np.ndarray) -> Ranks:
    """Ranks all texts for each image, and all images for each text.

    Args:
      scores: [N, T] float, higher is better; all finite.
      text_image: [T] int, the row of each text's image; an image may have any number
        of texts, at least one.

    Raises:
      InputError: shapes that do not fit, an image without a text, or scores that are
        not finite.
    """
    scores, text_image = np.asarray(scores), np.asarray(text_image)
    count = len(scores)
    if scores.ndim != 2 or text_image.shape != scores.shape[1:]:
        raise InputError(
            f"expected scores [N, T] and text_image [T], received {scores.shape} and "
            f"{text_image.shape}"
        )
    if not np.isfinite(scores).all():
        raise InputError(
            f"{(~np.isfinite(scores)).sum()} of {scores.size} scores are not finite"
        )
    if not np.array_equal(np.unique(text_image), np.arange(count)):
        raise InputError(
            f"expected texts of every image from 0 to {count - 1} and of no other"
        )
    own = np.arange(count)[:, None] == text_image
    right = scores[text_image, np.arange(len(text_image))]
    # Another image with the same score stands before the right one.
    images = (scores >= right).sum(axis=0) - 1
    best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    # The image's other texts are right as well: only those of others stand before.
    texts = ((scores >= best) & ~own).sum(axis=1)
    return Ranks(texts, images)


def metrics(found: Ranks) -> dict[str, float]:
    """Returns recalls in percent, and mean and median rank counted from 1."""
    out = {}
    for name, values in (("text", found.texts), ("image", found.images)):
        for cut in CUTS:
            out[f"{name}_r{cut}"] = 100.0 * np.count_nonzero(values < cut) / len(values)
        out[f"{name}_median_rank"] = float(np.floor(np.median(values)) + 1)
        out[f"{name}_mean_rank"] = float(values.mean() + 1)
    return out


def fold_metrics(
    scores: np.ndarray, text_image: np.ndarray, fold: int = FOLD
) -> dict[str, float]:
    """Returns the mean of `metrics` over disjoint folds of images, in their order.

    "COCO 1K" is this over the 5,000 images of Karpathy's test split.

    Raises:
      InputError: the images do not make whole folds.
    """
    count = len(scores)
    if not count or count % fold:
        raise InputError(f"expected a multiple of {fold} images, received {count}")
    parts = []
    for first in range(0, count, fold):
        texts = (text_image >= first) & (text_image < first + fold)
        part = ranks(scores[first : first + fold][:, texts], text_image[texts] - first)
        parts.append(metrics(part))
    return {name: float(np.mean([p[name] for p in parts])) for name in parts[0]}
