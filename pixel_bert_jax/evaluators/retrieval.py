"""Held-out metrics of image-text retrieval: recall at 1, 5 and 10, both ways.

All pairs are scored by the objective that `eval.score` names: `retrieval` or `itm` run
the transformer on every pair, `contrast` compares vectors. With `eval.shortlist` = k
only those pairs are scored that a fast first stage leaves: per query the k best texts
or images according to the objective `eval.shortlist_by`. Metrics of the latter are
named `two_stage_...`.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax import trees
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.evaluators import recall
from pixel_bert_jax.evaluators.base import Evaluator, Predict, Settings
from pixel_bert_jax.evaluators.errors import Values
from pixel_bert_jax.evaluators.pair_scores import Gallery, PairScorer, score_matrix
from pixel_bert_jax.evaluators.shortlist import FirstStage, Words, two_stage
from pixel_bert_jax.evaluators.vectors import Vectors
from pixel_bert_jax.tasks.retrieval import CONTRAST, FUSED
from pixel_bert_jax.types import InputError, Params

FOLDER = "scores"  # in the workdir
FIRST_STAGES = CONTRAST, "image_words"  # objectives that make shortlists, best first


class RetrievalEvaluator(Evaluator):
    """Scores pairs of images and texts, and ranks them."""

    whole_sets = True
    needs = (*FUSED, CONTRAST)
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
        self.score = self._chosen("score", self.needs)
        self.shortlist = options.shortlist
        if 0 < self.shortlist < max(recall.CUTS):
            raise InputError(
                f"eval.shortlist is {self.shortlist}, expected 0 (all pairs) or at "
                f"least {max(recall.CUTS)}, the longest list that is judged"
            )
        if self.shortlist and options.fold:
            raise InputError("eval.shortlist and eval.fold do not go together")
        if self.shortlist:
            if self.score == CONTRAST:
                raise InputError(
                    f"eval.shortlist is of pairs for {' or '.join(FUSED)} to score; "
                    f"eval.score is {CONTRAST!r}, which scores all pairs at once"
                )
            self.first = self._chosen("shortlist_by", FIRST_STAGES)

    def _chosen(self, field: str, names: Sequence[str]) -> str:
        """Returns the objective that a field of `eval` names, by default the first.

        Raises:
          InputError: the model has no such head.
        """
        heads, value = self.settings.heads, getattr(self.settings.options, field)
        valid = [name for name in names if name in heads]
        if value in valid:
            return value
        if valid and not value:
            return valid[0]
        raise InputError(
            f"eval.{field} is {value!r}, expected one of the objectives "
            f"{', '.join(names)}; the model has {', '.join(heads)}"
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
            scorer = self._scorer(predict, variables, gallery)
            first: FirstStage
            if self.first == CONTRAST:
                first = self._vectors(predict, variables, gallery)
            else:
                first = Words(predict, variables, gallery, self.settings.tokenizer)
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

    def _scorer(
        self, predict: Predict, variables: Params, gallery: Gallery
    ) -> PairScorer:
        texts = self.settings.options.texts
        return PairScorer(predict, variables, gallery, head=self.score, texts=texts)

    def _vectors(
        self, predict: Predict, variables: Params, gallery: Gallery
    ) -> Vectors:
        similarity = self.settings.heads[CONTRAST].similarity
        return Vectors(predict, variables, gallery, similarity)

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
        if self.score == CONTRAST:  # takes seconds, so nothing is kept
            vectors = self._vectors(predict, variables, gallery)
            vectors.read(stream)
            return vectors.scores()
        folder = None
        if self.settings.folder is not None:
            parts = (
                trees.digest(variables),
                gallery.index.fingerprint,
                self.settings.plan,
                self.score,
            )
            identity = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
            folder = self.settings.folder / FOLDER / identity
        scorer = self._scorer(predict, variables, gallery)
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
