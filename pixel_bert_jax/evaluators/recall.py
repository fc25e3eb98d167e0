"""Recall at K of image-text retrieval, both ways (as SCAN's evaluation.py, UNITER).

"Text retrieval" looks for an image's texts, of which the best counts; "image retrieval"
looks for a text's image. Ranks count from 0. Ties are pessimistic: an equal score ranks
before that of the right answer, so that a model with constant scores finds nothing (the
official scripts leave ties to an unstable sort); tied queries are counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.types import InputError

FOLD = 1000  # images in each of the five folds of COCO's test split
CUTS = (1, 5, 10)


class Ranks(NamedTuple):
    """Rank of the first right answer to each query.

    Attributes:
      texts: [N] int64, rank of each image's best text.
      images: [T] int64, rank of each text's image.
      texts_tied: [N] bool, whether a wrong text has the score of the best right one.
      images_tied: [T] bool, whether a wrong image has the score of the right one.
    """

    texts: np.ndarray
    images: np.ndarray
    texts_tied: np.ndarray
    images_tied: np.ndarray


def ranks(scores: np.ndarray, text_image: np.ndarray) -> Ranks:
    """Ranks all texts for each image, and all images for each text.

    Args:
      scores: [N, T] float, higher is better; all finite.
      text_image: [T] int, row of each text's image; an image has at least one text.

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
    # Another image with the same score is ranked before the right one.
    images = (scores >= right).sum(axis=0) - 1
    best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    # All texts of the image are right: only those of other images rank before them.
    texts = ((scores >= best) & ~own).sum(axis=1)
    return Ranks(
        texts,
        images,
        texts_tied=((scores == best) & ~own).any(axis=1),
        images_tied=(scores == right).sum(axis=0) > 1,
    )


def metrics(found: Ranks) -> dict[str, float]:
    """Returns recalls in percent, ranks counted from 1, and the number of ties."""
    out = {}
    for name, rank, tied in (
        ("text", found.texts, found.texts_tied),
        ("image", found.images, found.images_tied),
    ):
        for cut in CUTS:
            out[f"{name}_r{cut}"] = 100.0 * np.count_nonzero(rank < cut) / len(rank)
        out[f"{name}_median_rank"] = float(np.floor(np.median(rank)) + 1)
        out[f"{name}_mean_rank"] = float(rank.mean() + 1)
        out[f"{name}_ties"] = float(np.count_nonzero(tied))
    return out


def values(found: Ranks, text_image: np.ndarray) -> dict[str, Values]:
    """Returns the value of each query for the metrics that are means over queries.

    Args:
      found: ranks.
      text_image: [T] int, row of each text's image, by which errors are clustered.
    """
    out = {}
    for name, rank, clusters in (
        ("text", found.texts, np.arange(len(found.texts))),
        ("image", found.images, text_image),
    ):
        queries = range(len(rank))
        for cut in CUTS:
            hits = 100.0 * (rank < cut)
            out[f"{name}_r{cut}"] = Values(queries, clusters, hits)
        out[f"{name}_mean_rank"] = Values(queries, clusters, rank + 1.0)
    return out


def fold_ranks(scores: np.ndarray, text_image: np.ndarray, fold: int = FOLD) -> Ranks:
    """Ranks each query among the images or texts of its fold of consecutive images.

    Args:
      scores: [N, T] float, higher is better.
      text_image: [T] int, row of each text's image.
      fold: images per fold.

    Raises:
      InputError: the number of images is no multiple of `fold`.
    """
    count, number = len(scores), len(text_image)
    if not count or count % fold:
        raise InputError(f"expected a multiple of {fold} images, received {count}")
    out = Ranks(
        np.empty(count, np.int64),
        np.empty(number, np.int64),
        np.empty(count, bool),
        np.empty(number, bool),
    )
    for first in range(0, count, fold):
        images = slice(first, first + fold)
        texts = (text_image >= first) & (text_image < first + fold)
        part = ranks(scores[images][:, texts], text_image[texts] - first)
        for whole, found, rows in zip(
            out, part, (images, texts, images, texts), strict=True
        ):
            whole[rows] = found
    return out


def fold_metrics(
    found: Ranks, text_image: np.ndarray, fold: int = FOLD
) -> dict[str, float]:
    """Returns the mean of `metrics` over folds, without the number of ties.

    "COCO 1K" is this mean over the 5,000 images of Karpathy's test split.

    Args:
      found: result of `fold_ranks`.
      text_image: [T] int, row of each text's image.
      fold: images per fold.
    """
    parts = []
    for first in range(0, len(found.texts), fold):
        images = slice(first, first + fold)
        texts = (text_image >= first) & (text_image < first + fold)
        rows = (images, texts, images, texts)
        part = Ranks(*(whole[row] for whole, row in zip(found, rows, strict=True)))
        parts.append(metrics(part))
    return {
        name: float(np.mean([part[name] for part in parts]))
        for name in parts[0]
        if not name.endswith("_ties")
    }
