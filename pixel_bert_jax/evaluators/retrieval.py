"""Held-out figures of image-text retrieval: recall at 1, 5 and 10, both ways.

All pairs are scored, or with `eval.shortlist` = k only those that a quick first stage
leaves: for each query the k texts or images whose words and pixels fit best, by the
objective `image_words`. Figures of the second kind are named `two_stage_...`.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax import trees
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.evaluators import recall
from pixel_bert_jax.evaluators.base import Predict, Settings
from pixel_bert_jax.evaluators.pair_scores import Gallery, PairScorer, score_matrix
from pixel_bert_jax.evaluators.shortlist import Shortlist, two_stage
from pixel_bert_jax.types import InputError, Params

FOLDER = "scores"  # in the workdir
WORDS = "image_words"  # the objective of the first stage


class RetrievalEvaluator:
    """Scores pairs with `Retrieval.score` and ranks them.

    Attributes:
      suffix: ends the name of a file of predictions.
    """

    partners = False
    whole_units = True
    needs_all = True
    suffix = ".npz"

    def __init__(self, settings: Settings):
        """Keeps what is needed.

        Raises:
          InputError: a number that cannot be meant.
        """
        options = settings.options
        self.texts, self.fold = options["texts"], options["fold"]
        self.shortlist = options["shortlist"]
        for name, least in (("texts", 1), ("fold", 0), ("shortlist", 0)):
            if options[name] < least:
                raise InputError(
                    f"eval.{name} is {options[name]}, expected at least {least}"
                )
        if 0 < self.shortlist < max(recall.CUTS):
            raise InputError(
                f"eval.shortlist is {self.shortlist}, expected 0 (all pairs) or at "
                f"least {max(recall.CUTS)}, the longest list that is judged"
            )
        if self.shortlist and self.fold:
            raise InputError("eval.shortlist and eval.fold do not go together")
        if self.shortlist and WORDS not in settings.objectives:
            raise InputError(
                f"eval.shortlist needs a model with the objective {WORDS}, whose head "
                "makes the first stage; give eval.shortlist=0 to score all pairs"
            )
        self.settings = settings

    def names(self, index: Index) -> list[str]:
        """Returns the names of all figures that `run` gives without an oracle."""
        gallery = Gallery(index)
        images = len(gallery.image_rows)
        plain = list(recall.figures(recall.Ranks(np.zeros(1, int), np.zeros(1, int))))
        if self.shortlist:
            lost = ["text_lost", "image_lost", "pairs_scored"]
            names = [f"two_stage_{name}" for name in (*plain, *lost)]
        else:
            names = plain + [f"fold_{name}" for name in plain if self._folds(images)]
        return [f"{index.corpora[0]}/{name}" for name in ("images", "texts", *names)]

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields figures named `corpus/figure`; recalls in percent.

        Figures: `images`, `texts`: counts; `text_r1` ... and `image_r1` ... of
        `recall.figures`; `fold_...`, their mean over folds of `eval.fold` images;
        with an oracle `text_r1_oracle` and `image_r1_oracle`. With a shortlist instead
        `two_stage_...`, and of these `text_lost` and `image_lost`, the queries in
        percent whose right answers are not on the list, and `pairs_scored`, the share
        of all pairs in percent that the second stage scored.
        """
        gallery = Gallery(index)
        name = index.corpora[0]
        yield f"{name}/images", float(len(gallery.image_rows))
        yield f"{name}/texts", float(len(gallery.text_image))
        if self.shortlist:
            scorer = PairScorer(predict, variables, gallery, self.texts)
            first = Shortlist(predict, variables, gallery, self.settings.tokenizer)
            figures = two_stage(first, scorer, stream, self.shortlist)
        else:
            scores = self._matrix(predict, variables, stream, gallery)
            figures = recall.figures(recall.ranks(scores, gallery.text_image))
            if self._folds(len(scores)):
                folds = recall.fold_figures(scores, gallery.text_image, self.fold)
                figures |= {f"fold_{figure}": value for figure, value in folds.items()}
        for figure, value in figures.items():
            yield f"{name}/{figure}", value
        if self.settings.oracle and index.sources[0].oracle is not None:
            for figure, value in oracle_figures(gallery).items():
                yield f"{name}/{figure}", value

    def predictions(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> list[np.ndarray]:
        """Returns the scores float32 [N, T] of the single corpus."""
        return [self._matrix(predict, variables, stream, Gallery(index))]

    def write(self, path: Path, found: np.ndarray, index: Index) -> None:
        """Writes scores, and what their rows and columns are."""
        gallery = Gallery(index)
        np.savez(
            path,
            scores=found,
            images=np.array([index.key(row) for row in gallery.image_rows]),
            texts=np.array([index.caption(0, t) for t in range(index.num_texts(0))]),
            text_image=gallery.text_image,
        )

    def _folds(self, images: int) -> bool:
        """Returns whether there are figures of folds.

        Raises:
          InputError: the images do not make whole folds.
        """
        if self.fold and images % self.fold:
            raise InputError(
                f"eval.fold is {self.fold}, expected a divisor of the {images} images"
            )
        return bool(self.fold)

    def _matrix(
        self, predict: Predict, variables: Params, stream: Any, gallery: Gallery
    ) -> np.ndarray:
        """Returns all scores; goes on where an earlier call was stopped."""
        folder = None
        if self.settings.folder is not None:
            parts = (
                trees.digest(variables),
                gallery.index.fingerprint,
                self.settings.plan,
            )
            identity = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
            folder = self.settings.folder / FOLDER / identity
        scorer = PairScorer(predict, variables, gallery, self.texts)
        scores = score_matrix(scorer, stream, gallery, folder)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # what another model left
                folder.parent.rmdir()
        return scores


def oracle_figures(gallery: Gallery) -> dict[str, float]:
    """Returns recalls at 1 of a reader who knows each scene and how captions are drawn.

    For a text the scene that gives it with the highest probability; for a scene the
    text that the most probably is one of its own.
    """
    index = gallery.index
    source = index.sources[0]
    texts = [index.caption(0, t).split() for t in range(len(gallery.text_image))]
    given = np.empty((len(gallery.image_rows), len(texts)))
    for n, row in enumerate(gallery.image_rows):
        oracle = source.oracle(int(index.key(row)))
        given[n] = [oracle.likelihood(words) for words in texts]
    of_images = recall.ranks(given, gallery.text_image)
    of_texts = recall.ranks(given / given.sum(axis=0), gallery.text_image)
    return {
        "text_r1_oracle": recall.figures(of_texts)["text_r1"],
        "image_r1_oracle": recall.figures(of_images)["image_r1"],
    }
