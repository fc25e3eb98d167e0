"""Scores of pairs of held-out images and texts, each image through the CNN once.

A batch of images is encoded, its visual tokens stay on the devices, and texts are
scored against them in portions of fixed size. The scores of a batch can be kept in a
file, so that hours of scoring can be interrupted and resumed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data import durable
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.pipeline import Step
from pixel_bert_jax.evaluators.base import Predict, to_host
from pixel_bert_jax.types import Batch, InputError, Params

WIDTH = 16  # tokens; a portion of texts is cut to the next multiple of it


class Gallery:
    """The images and texts of a held-out corpus, numbered from 0.

    Attributes:
      index: index of the single corpus.
      image_rows: int64 [N], rows of the images that have texts, in the index's order.
      text_image: int64 [T], number of each text's image.
      by_length: int64 [T], numbers of the texts, shortest first: portions of texts of
        equal length need the least padding.
    """

    def __init__(self, index: Index):
        """Reads which text belongs to which image.

        Raises:
          InputError: there is more than one corpus, or its texts belong to two images.
        """
        if len(index.corpora) != 1:
            raise InputError(
                "retrieval is evaluated on one corpus, received "
                f"{', '.join(index.corpora)}; give the others evaluated=False"
            )
        if index.sources[0].images_per_text > 1:
            raise InputError("retrieval is of single images, received pairs")
        self.index = index
        self.image_rows, self.text_image = np.unique(
            index.text_image(0), return_inverse=True
        )
        _, mask = index.texts(0, np.arange(len(self.text_image)))
        self.by_length = np.argsort(mask.sum(axis=1), kind="stable")

    def shown(self, step: Step) -> np.ndarray:
        """Returns int64 [G], the number of each group's image, -1 for padding."""
        texts = step.batch["example_id"][:, 0, 1].astype(np.int64)
        real = step.batch["example_mask"][:, 0]
        return np.where(real, self.text_image[np.where(real, texts, 0)], -1)


def encode(predict: Predict, variables: Params, step: Step) -> Batch:
    """Returns the visual tokens of a step's images, on the devices."""
    return predict.run("pixels", variables, predict.place(step))


class PairScorer:
    """Scores encoded images against texts that are given by their numbers."""

    def __init__(
        self,
        predict: Predict,
        variables: Params,
        gallery: Gallery,
        *,
        head: str,
        texts: int,
    ):
        """Keeps the arguments.

        Args:
          predict: runs the predict functions "pixels" and "score_HEAD".
          variables: parameters and running statistics.
          gallery: images and texts.
          head: objective whose head scores; see `tasks.retrieval.score`.
          texts: number of texts scored at once per image.
        """
        self._predict, self._variables = predict, variables
        self._gallery, self._head, self._texts = gallery, head, texts

    def encode(self, step: Step) -> Batch:
        """Returns the visual tokens of a step's images, on the devices."""
        return encode(self._predict, self._variables, step)

    def score(self, visual: Batch, wanted: np.ndarray) -> np.ndarray:
        """Returns the scores of some texts with each image, float32 [G, n].

        Args:
          visual: result of `encode`, on the devices or the host.
          wanted: int [G, n], numbers of texts; -1 for padding.
        """
        count, size = wanted.shape[1], self._texts
        padding = ((0, 0), (0, -count % size))
        wanted = np.pad(wanted, padding, constant_values=-1)
        found = []
        for begin in range(0, wanted.shape[1], size):
            rows = wanted[:, begin : begin + size]
            ids, mask = cut(*self._gallery.index.texts(0, rows.reshape(-1)))
            texts = {
                "text_ids": ids.reshape(*rows.shape, -1),
                "text_mask": mask.reshape(*rows.shape, -1),
            }
            name, batch = f"score_{self._head}", {**visual, **texts}
            out = self._predict.run(name, self._variables, batch)
            found.append(out["score"])
        return np.concatenate(to_host(found), axis=1)[: len(wanted), :count]


def cut(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts texts [T, L] to the longest, in few widths, so that few are compiled."""
    longest = int(mask.sum(axis=1).max())
    width = max(-(-longest // WIDTH), 1) * WIDTH
    return ids[:, :width], mask[:, :width]


def score_matrix(
    scorer: PairScorer, stream: Any, gallery: Gallery, folder: Path | None
) -> np.ndarray:
    """Returns the scores of all images with all texts, float32 [N, T].

    Args:
      scorer: scores a batch of images.
      stream: batches with each image once.
      gallery: images and texts.
      folder: keeps the scores of each batch for a later call; None: keep nothing.
    """
    texts = len(gallery.text_image)
    scores = np.empty((len(gallery.image_rows), texts), np.float32)
    for step, images in once(stream, gallery):
        file = folder and folder / f"{step.step:06d}.npy"
        real = images >= 0
        part = _read(file, (int(real.sum()), texts))
        if part is None:
            visual = scorer.encode(step)
            wanted = np.broadcast_to(gallery.by_length, (len(images), texts))
            part = np.empty((int(real.sum()), texts), np.float32)
            part[:, gallery.by_length] = scorer.score(visual, wanted)[real]
            _write(file, part)
        scores[images[real]] = part
    return scores


def once(stream: Any, gallery: Gallery) -> Iterator[tuple[Step, np.ndarray]]:
    """Yields (step, numbers of its images), and checks that each image comes once.

    Raises:
      RuntimeError: an image came twice or never: metrics would be wrong.
    """
    seen = np.zeros(len(gallery.image_rows), np.int64)
    for step in stream:
        images = gallery.shown(step)
        np.add.at(seen, images[images >= 0], 1)
        yield step, images
    if (seen != 1).any():
        raise RuntimeError(
            f"{(seen == 0).sum()} of {len(seen)} images were not seen, "
            f"{(seen > 1).sum()} more than once"
        )


def _read(file: Path | None, shape: tuple[int, int]) -> np.ndarray | None:
    """Returns scores that were kept; None, to compute them again, if damaged."""
    if file is None or not file.is_file():
        return None
    try:
        part = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return part if part.shape == shape and part.dtype == np.float32 else None


def _write(file: Path | None, part: np.ndarray) -> None:
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, part)
    durable.write(file, content.getvalue())
