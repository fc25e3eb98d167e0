"""Held-out metrics of image-text retrieval: recall at 1, 5 and 10, both ways.

All pairs are scored, or with `eval.shortlist` = k only those that a fast first stage
leaves: per query the k texts or images whose words and pixels fit best, according to
the objective `image_words`. Metrics of the latter are named `two_stage_...`.
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
from pixel_bert_jax.evaluators.base import Evaluator, Predict, Settings
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.evaluators.pair_scores import Gallery, PairScorer, score_matrix
from pixel_bert_jax.evaluators.shortlist import Shortlist, two_stage
from pixel_bert_jax.tasks.retrieval import SCORERS
from pixel_bert_jax.types import InputError, Params

FOLDER = "scores"  # in the workdir
WORDS = "image_words"  # the objective of the first stage


class RetrievalEvaluator(Evaluator):
    """Scores pairs with `tasks.retrieval.score` and ranks them."""

    whole_sets = True
    needs = SCORERS
    metrics = (
        "images",
        "texts",
        r"(two_stage_|fold_)?(text|image)_((r1|r5|r10|mean_rank)(_se)?|median_rank)",
        r"(two_stage_)?(text|image)_ties",
        r"two_stage_((text|image)_lost(_se)?|pairs_scored)",
        r"(text|image)_r1_oracle",
    )
    suffix = ".npz"

    def __init__(self, settings: Settings):
        """Keeps the settings.

        Raises:
          InputError: an invalid option, or a model without the heads.
        """
        super().__init__(settings)
        options = settings.options
        self.shortlist = options.shortlist
        if 0 < self.shortlist < max(recall.CUTS):
            raise InputError(
                f"eval.shortlist is {self.shortlist}, expected 0 (all pairs) or at "
                f"least {max(recall.CUTS)}, the longest list that is judged"
            )
        if self.shortlist and options.fold:
            raise InputError("eval.shortlist and eval.fold do not go together")
        if self.shortlist and WORDS not in settings.heads:
            raise InputError(
                f"eval.shortlist needs a model with the objective {WORDS}, whose head "
                "makes the first stage; give eval.shortlist=0 to score all pairs"
            )

    def check(self, index: Index) -> None:
        """Checks the number of corpora and of images, before anything is scored.

        Raises:
          InputError: more than one corpus, images in pairs, or `eval.fold` does not
            divide the number of images.
        """
        images, fold = len(Gallery(index).image_rows), self.settings.options.fold
        if fold and images % fold:
            raise InputError(
                f"eval.fold is {fold}, expected a divisor of the {images} images"
            )

    def run(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> Iterator[tuple[str, float]]:
        """Yields metrics named `corpus/metric`; recalls in percent.

        Metrics: `images`, `texts`: counts; `text_r1` ... and `image_r1` ... of
        `recall.metrics`, with standard errors, those of texts clustered by image;
        `fold_...`: their mean over folds of `eval.fold` images; with an oracle
        `text_r1_oracle` and `image_r1_oracle`. With a shortlist all are named
        `two_stage_...`; further ones are `text_lost` and `image_lost`, the percentage
        of queries whose right answers are not on the list, and `pairs_scored`, the
        percentage of all pairs that the second stage scored.
        """
        gallery = Gallery(index)
        name = index.corpora[0]
        yield f"{name}/images", float(len(gallery.image_rows))
        yield f"{name}/texts", float(len(gallery.text_image))
        if self.shortlist:
            scorer = PairScorer(
                predict, variables, gallery, self.settings.options.texts
            )
            first = Shortlist(predict, variables, gallery, self.settings.tokenizer)
            metrics, values = two_stage(first, scorer, stream, self.shortlist)
        else:
            scores = self._matrix(predict, variables, stream, gallery)
            metrics, values = self._ranked(scores, gallery.text_image)
        for metric, value in metrics.items():
            yield f"{name}/{metric}", value
            if metric in values:
                _, error = self.scored(f"{name}/{metric}", values[metric])
                yield error
        if self.settings.options.oracle and index.sources[0].oracle is not None:
            for metric, value in oracle_metrics(gallery).items():
                yield f"{name}/{metric}", value

    def _ranked(
        self, scores: np.ndarray, text_image: np.ndarray
    ) -> tuple[dict[str, float], dict[str, Values]]:
        """Returns all metrics of a matrix of scores, and the values of each query."""
        found = recall.ranks(scores, text_image)
        metrics, values = recall.metrics(found), recall.values(found, text_image)
        if fold := self.settings.options.fold:
            found = recall.fold_ranks(scores, text_image, fold)
            folds = recall.fold_metrics(found, text_image, fold)
            metrics |= {f"fold_{metric}": value for metric, value in folds.items()}
            of_folds = recall.values(found, text_image).items()
            values |= {f"fold_{metric}": value for metric, value in of_folds}
        return metrics, values

    def predictions(
        self, predict: Predict, variables: Params, stream: Any, index: Index
    ) -> list[np.ndarray]:
        """Returns the scores float32 [N, T] of the single corpus."""
        return [self._matrix(predict, variables, stream, Gallery(index))]

    def write(self, path: Path, found: np.ndarray, index: Index) -> None:
        """Writes scores, and the images and texts of their rows and columns."""
        gallery = Gallery(index)
        np.savez(
            path,
            scores=found,
            images=np.array([index.key(row) for row in gallery.image_rows]),
            texts=np.array([index.caption(0, t) for t in range(index.num_texts(0))]),
            text_image=gallery.text_image,
        )

    def _matrix(
        self, predict: Predict, variables: Params, stream: Any, gallery: Gallery
    ) -> np.ndarray:
        """Returns all scores; resumes where an earlier call was interrupted."""
        folder = None
        if self.settings.folder is not None:
            parts = (
                trees.digest(variables),
                gallery.index.fingerprint,
                self.settings.plan,
            )
            identity = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
            folder = self.settings.folder / FOLDER / identity
        scorer = PairScorer(predict, variables, gallery, self.settings.options.texts)
        scores = score_matrix(scorer, stream, gallery, folder)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: of another model
                folder.parent.rmdir()
        return scores


def oracle_metrics(gallery: Gallery) -> dict[str, float]:
    """Returns recalls at 1 of a reader who knows each scene and how captions are drawn.

    For a text it picks the scene that gives it with the highest probability; for a
    scene, the text that is most probably one of its own.
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
        "text_r1_oracle": recall.metrics(of_texts)["text_r1"],
        "image_r1_oracle": recall.metrics(of_images)["image_r1"],
    }
