"""Scores of all pairs by vectors: the objective `contrast` compares what it encoded.

Every image and every text passes through the transformer once, instead of every pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pixel_bert_jax.evaluators.base import Predict, to_host
from pixel_bert_jax.evaluators.pair_scores import Gallery, cut, encode, once
from pixel_bert_jax.ops.similarity import SIMILARITIES, Tokens
from pixel_bert_jax.types import Batch, Params

TEXTS = 256  # encoded or compared at once


class Vectors:
    """Compares images, which are added batch by batch, with all texts of a gallery."""

    def __init__(
        self,
        predict: Predict,
        variables: Params,
        gallery: Gallery,
        similarity: str,
    ):
        """Encodes nothing yet.

        Args:
          predict: runs the predict functions "pixels", "image_vectors" and
            "text_vectors".
          variables: parameters and running statistics.
          gallery: images and texts.
          similarity: key of SIMILARITIES.
        """
        self._predict, self._variables = predict, variables
        self._compare = jax.jit(SIMILARITIES[similarity])
        self.gallery = gallery
        self._images: list[tuple[np.ndarray, Tokens]] = []

    def add(self, visual: Batch, images: np.ndarray) -> None:
        """Encodes and keeps some images.

        Args:
          visual: visual tokens of the images, result of "pixels".
          images: int [G], numbers of the images; -1 for padding.
        """
        out = self._predict.run("image_vectors", self._variables, visual)
        self._images.append((images, _tokens(to_host(out))))

    def read(self, stream: Any) -> None:
        """Adds all images of a stream, which has each once."""
        for step, images in once(stream, self.gallery):
            self.add(encode(self._predict, self._variables, step), images)

    def scores(self) -> np.ndarray:
        """Returns the similarities of all images with all texts, float32 [N, T]."""
        count = len(self.gallery.text_image)
        out = np.empty((len(self.gallery.image_rows), count), np.float32)
        for texts, tokens in self._texts():
            for images, pixels in self._images:
                found = np.asarray(self._compare(pixels, tokens))
                real = images >= 0
                rows = np.ix_(images[real], texts)
                out[rows] = found[: len(images)][real, : len(texts)]
        return out

    def _texts(self) -> Iterator[tuple[np.ndarray, Tokens]]:
        """Yields (numbers, tokens) of portions, shortest first; the last is padded."""
        order, index = self.gallery.by_length, self.gallery.index
        for begin in range(0, len(order), TEXTS):
            texts = order[begin : begin + TEXTS]
            ids, mask = cut(*index.texts(0, np.resize(texts, TEXTS)))
            batch = {"text_ids": ids[:, None], "text_mask": mask[:, None]}
            out = to_host(self._predict.run("text_vectors", self._variables, batch))
            yield texts, _tokens({name: x[:TEXTS] for name, x in out.items()})


def _tokens(out: dict[str, np.ndarray]) -> Tokens:
    return Tokens(out["vectors"], out["mask"])
