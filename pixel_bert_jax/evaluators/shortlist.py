"""Two stages of retrieval: words and pixels make a shortlist, the model re-ranks it.

The objective `image_words` tells which words an image shows without looking at a text.
A text t fits an image i by

    sum over its words w of  log p(w | i) - log mean_j p(w | j),

the mean over all images: how much likelier the image makes its words. That costs next
to nothing, and what it loses is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.evaluators import recall
from pixel_bert_jax.evaluators.base import Predict, to_host
from pixel_bert_jax.evaluators.pair_scores import Gallery, PairScorer, once
from pixel_bert_jax.types import Batch, Params


class Shortlist:
    """The first stage: which words does each image show?"""

    def __init__(
        self,
        predict: Predict,
        variables: Params,
        gallery: Gallery,
        tokenizer: WordPiece,
    ):
        """Looks up the words of all texts.

        Args:
          predict: of the task `retrieval`.
          variables: parameters and running statistics.
          gallery: images and texts.
          tokenizer: whose special tokens are no words.
        """
        self._predict, self._variables = predict, variables
        self.gallery = gallery
        ids, mask = gallery.index.texts(0, np.arange(len(gallery.text_image)))
        mask &= ~np.isin(ids, list(tokenizer.special_ids))
        self._words = np.unique(ids[mask])
        # Words of a text as places in `_words`, each once; the last place is no word.
        nothing = len(self._words)
        places = np.where(mask, np.searchsorted(self._words, ids), nothing)
        places.sort(axis=1)
        places[:, 1:][places[:, 1:] == places[:, :-1]] = nothing
        self._places = places
        self._shown = np.zeros((len(gallery.image_rows), nothing), np.float32)

    def add(self, visual: Batch, images: np.ndarray) -> None:
        """Notes which words some images show.

        Args:
          visual: their visual tokens.
          images: int [G] their numbers; -1 for a hole.
        """
        out = self._predict.run("words", self._variables, visual)["log_odds"]
        real = images >= 0
        odds = to_host(out)[: len(images)][real][:, self._words]
        self._shown[images[real]] = -np.logaddexp(0, -odds)  # log p

    def scores(self) -> np.ndarray:
        """Returns float32 [N, T]: how well every text fits every image."""
        usual = np.log(np.mean(np.exp(self._shown), axis=0))
        gain = np.pad(self._shown - usual, ((0, 0), (0, 1)))
        out = np.empty((len(gain), len(self._places)), np.float32)
        for row, image in zip(out, gain, strict=True):
            row[:] = image[self._places].sum(axis=1)
        return out


def two_stage(
    first: Shortlist, scorer: PairScorer, stream: Any, length: int
) -> dict[str, float]:
    """Ranks in two stages.

    Args:
      first: makes the shortlists.
      scorer: of the second stage.
      stream: of batches that show each image once.
      length: k, texts an image and images a text that are scored again; what is not
        on a list stays behind it, in the order of the first stage.

    Returns:
      Metrics named `two_stage_...`; see `RetrievalEvaluator.run`.
    """
    gallery = first.gallery
    seen = _Seen()
    for step, images in once(stream, gallery):
        visual = scorer.encode(step)
        first.add(visual, images)
        seen.add(to_host(visual), images)
    coarse = first.scores()
    texts = _best(coarse, length)
    images_of = _best(coarse.T, length).T
    fine = np.zeros_like(coarse)
    scored, by_length = texts | images_of, gallery.by_length
    for images, visual in seen.batches(scored.sum(axis=1)):
        rows = [by_length[scored[i, by_length]] for i in images]
        shape = len(visual["features"]), max(map(len, rows))
        wanted = np.full(shape, -1, np.int64)
        for row, listed in zip(wanted, rows, strict=False):
            row[: len(listed)] = listed
        found = scorer.score(visual, wanted)
        for i, listed, values in zip(images, rows, found, strict=False):
            fine[i, listed] = values[: len(listed)]
    ranks = recall.Ranks(
        recall.ranks(_combined(fine, coarse, texts), gallery.text_image).texts,
        recall.ranks(_combined(fine, coarse, images_of), gallery.text_image).images,
    )
    own = np.arange(len(coarse))[:, None] == gallery.text_image
    metrics = recall.metrics(ranks) | {
        "text_lost": 100 * (1 - (texts & own).any(axis=1).mean()),
        "image_lost": 100 * (1 - (images_of & own).any(axis=0).mean()),
        "pairs_scored": 100 * scored.mean(),
    }
    return {f"two_stage_{name}": float(value) for name, value in metrics.items()}


class _Seen:
    """Visual tokens of all images on the host, by the shape of their canvas."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, ...], list[tuple[Batch, np.ndarray]]] = {}
        self._size = 1

    def add(self, visual: Batch, images: np.ndarray) -> None:
        """Keeps the images of a batch; -1 is a hole."""
        self._size = max(self._size, len(images))
        real = np.flatnonzero(images >= 0)
        kept = {name: x[real] for name, x in visual.items()}
        shape = visual["features"].shape[1:]
        self._parts.setdefault(shape, []).append((kept, images[real]))

    def batches(self, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yields (numbers, visual tokens) of images whose lists are about as long.

        Every batch has tokens of as many images; those beyond the numbers repeat one.

        Args:
          lengths: int [N] of each image's list.
        """
        for parts in self._parts.values():
            images = np.concatenate([numbers for _, numbers in parts])
            whole = {
                name: np.concatenate([visual[name] for visual, _ in parts])
                for name in parts[0][0]
            }
            order = np.argsort(lengths[images], kind="stable")
            for begin in range(0, len(order), self._size):
                chosen = order[begin : begin + self._size]
                filled = np.pad(chosen, (0, self._size - len(chosen)), mode="edge")
                yield images[chosen], {name: x[filled] for name, x in whole.items()}


def _best(scores: np.ndarray, length: int) -> np.ndarray:
    """Returns bool [n, m]: the `length` highest of each row; the first of equals."""
    out = np.zeros(scores.shape, bool)
    for row, values in zip(out, scores, strict=True):
        row[np.argsort(-values, kind="stable")[:length]] = True
    return out


def _combined(fine: np.ndarray, coarse: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Returns one order: what is listed by `fine`, behind it the rest by `coarse`."""
    coarse = coarse.astype(np.float64)
    below = coarse - coarse.max() + fine.min() - 1
    return np.where(listed, fine, below)
