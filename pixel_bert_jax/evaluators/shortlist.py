"""Two stages of retrieval: a fast one makes a shortlist, the model re-ranks it.

The first stage compares vectors of the objective `contrast` (`evaluators/vectors.py`),
or words with pixels: the objective `image_words` predicts which words an image shows,
without any text. How well a text t fits an image i is the

    sum over its words w of  log p(w | i) - log mean_j p(w | j),

with the mean over all images j: how much likelier the image makes the text's words.
Both cost next to nothing, and the metrics report what they lose. The paper has no such
stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.evaluators import recall
from pixel_bert_jax.evaluators.base import Predict, to_host
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.evaluators.pair_scores import Gallery, PairScorer, once
from pixel_bert_jax.types import Batch, Params


class FirstStage(Protocol):
    """Scores all pairs of a gallery without running the transformer on each.

    Attributes:
      gallery: images and texts.
    """

    gallery: Gallery

    def add(self, visual: Batch, images: np.ndarray) -> None:
        """Reads some images.

        Args:
          visual: visual tokens of the images, result of "pixels".
          images: int [G], numbers of the images; -1 for padding.
        """

    def scores(self) -> np.ndarray:
        """Returns how well each text fits each image, float32 [N, T]."""


class Words:
    """A first stage: which words does each image show?"""

    def __init__(
        self,
        predict: Predict,
        variables: Params,
        gallery: Gallery,
        tokenizer: WordPiece,
    ):
        """Looks up the words of all texts.

        Args:
          predict: runs the predict function "words".
          variables: parameters and running statistics.
          gallery: images and texts.
          tokenizer: its special tokens do not count as words.
        """
        self._predict, self._variables = predict, variables
        self.gallery = gallery
        ids, mask = gallery.index.texts(0, np.arange(len(gallery.text_image)))
        mask &= ~np.isin(ids, list(tokenizer.special_ids))
        self._words = np.unique(ids[mask])
        # Words of a text as positions in `_words`, each once; the last one is no word.
        nothing = len(self._words)
        places = np.where(mask, np.searchsorted(self._words, ids), nothing)
        places.sort(axis=1)
        places[:, 1:][places[:, 1:] == places[:, :-1]] = nothing
        self._places = places
        self._shown = np.zeros((len(gallery.image_rows), nothing), np.float32)

    def add(self, visual: Batch, images: np.ndarray) -> None:
        """Predicts and keeps the words that some images show.

        Args:
          visual: visual tokens of the images.
          images: int [G], numbers of the images; -1 for padding.
        """
        out = self._predict.run("words", self._variables, visual)["log_odds"]
        real = images >= 0
        odds = to_host(out)[: len(images)][real][:, self._words]
        self._shown[images[real]] = -np.logaddexp(0, -odds)  # log p

    def scores(self) -> np.ndarray:
        """Returns how well each text fits each image, float32 [N, T]."""
        usual = np.log(np.mean(np.exp(self._shown), axis=0))
        gain = np.pad(self._shown - usual, ((0, 0), (0, 1)))
        out = np.empty((len(gain), len(self._places)), np.float32)
        for row, image in zip(out, gain, strict=True):
            row[:] = image[self._places].sum(axis=1)
        return out


def two_stage(
    first: FirstStage, scorer: PairScorer, stream: Any, length: int
) -> tuple[dict[str, float], dict[str, Values]]:
    """Ranks in two stages.

    Args:
      first: the first stage, which makes the shortlists.
      scorer: the second stage.
      stream: batches with each image once.
      length: k, texts per image and images per text that are scored again; the others
        are ranked behind them, in the order of the first stage.

    Returns:
      Metrics named `two_stage_...`, see `RetrievalEvaluator.run`, and the values of
      each query.
    """
    # Images pass through the CNN once. Their visual tokens wait on the host, because
    # the first stage needs the words of all images.
    gallery = first.gallery
    seen = _Seen()
    for step, images in once(stream, gallery):
        visual = scorer.encode(step)
        first.add(visual, images)
        seen.add(to_host(visual), images)
    coarse = first.scores()
    texts = _best(coarse, length)
    images_of = _best(coarse.T, length).T
    # A pair is scored once, though it may be on the list of its image and of its text.
    fine = np.zeros_like(coarse)
    scored, by_length = texts | images_of, gallery.by_length
    for images, visual in seen.batches(scored.sum(axis=1)):
        # Texts in order of length, so that portions of them need little padding.
        rows = [by_length[scored[i, by_length]] for i in images]
        shape = len(visual["features"]), max(map(len, rows))
        wanted = np.full(shape, -1, np.int64)
        for row, listed in zip(wanted, rows, strict=False):
            row[: len(listed)] = listed
        found = scorer.score(visual, wanted)
        for i, listed, values in zip(images, rows, found, strict=False):
            fine[i, listed] = values[: len(listed)]
    # Texts are ranked by the lists of images, and images by those of texts.
    text_image = gallery.text_image
    of_images = recall.ranks(_combined(fine, coarse, texts), text_image)
    of_texts = recall.ranks(_combined(fine, coarse, images_of), text_image)
    ranks = of_images._replace(images=of_texts.images, images_tied=of_texts.images_tied)
    own = np.arange(len(coarse))[:, None] == text_image
    lost = {
        "text_lost": 100.0 * ~(texts & own).any(axis=1),
        "image_lost": 100.0 * ~(images_of & own).any(axis=0),
    }
    rows = {"text_lost": np.arange(len(coarse)), "image_lost": text_image}
    values = recall.values(ranks, text_image) | {
        name: Values(range(len(x)), rows[name], x) for name, x in lost.items()
    }
    metrics = recall.metrics(ranks) | {name: x.mean() for name, x in lost.items()}
    metrics["pairs_scored"] = 100 * scored.mean()
    return (
        {f"two_stage_{name}": float(value) for name, value in metrics.items()},
        {f"two_stage_{name}": value for name, value in values.items()},
    )


class _Seen:
    """Visual tokens of all images on the host, by the shape of their canvas."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, ...], list[tuple[Batch, np.ndarray]]] = {}
        self._size = 1

    def add(self, visual: Batch, images: np.ndarray) -> None:
        """Keeps the images of a batch; -1 is padding."""
        self._size = max(self._size, len(images))
        real = np.flatnonzero(images >= 0)
        kept = {name: x[real] for name, x in visual.items()}
        shape = visual["features"].shape[1:]
        self._parts.setdefault(shape, []).append((kept, images[real]))

    def batches(self, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yields (numbers, visual tokens) of images whose lists are similarly long.

        All batches have tokens of the same number of images; if there are fewer
        numbers, the last image is repeated.

        Args:
          lengths: int [N], length of each image's list.
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
    """Returns bool [n, m]: the `length` highest of each row, the first of equals."""
    out = np.zeros(scores.shape, bool)
    for row, values in zip(out, scores, strict=True):
        row[np.argsort(-values, kind="stable")[:length]] = True
    return out


def _combined(fine: np.ndarray, coarse: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Returns one order: listed pairs by `fine`, then the others by `coarse`."""
    coarse = coarse.astype(np.float64)
    below = coarse - coarse.max() + fine.min() - 1
    return np.where(listed, fine, below)
