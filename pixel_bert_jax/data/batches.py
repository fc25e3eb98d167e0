"""Makes one batch: the plan's examples, with images decoded onto source canvases.

`fields.py` documents the arrays of a batch; their first axis is this process's groups
(all G in a single process). An image that fails masks its whole group, which keeps its
corpus, texts and example ids: a batch is a pure function of the plan and of the bytes
of the files.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from pixel_bert_jax.data import geometry, images
from pixel_bert_jax.data.augment import Augmentation
from pixel_bert_jax.data.features import PhotoFeatures
from pixel_bert_jax.data.fields import (
    EVALUATION_FIELDS,
    FIELDS,
    OTHER,
    Field,
    with_features,
)
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.plan import Bucket, EvaluationPlan, TrainPlan
from pixel_bert_jax.data.targets import Targets
from pixel_bert_jax.types import Batch

# Seconds without any image until a warning and until an error, because a file system
# that hangs raises nothing; and seconds between two checks.
READ_WARN, READ_LIMIT, READ_LOOK = 30.0, 300.0, 0.2
SHOWN = 3  # images in a message


class ClosedError(RuntimeError):
    """The stream was closed, so that the batch is not needed."""


@dataclasses.dataclass(frozen=True)
class Made:
    """A batch, and how reading its images went.

    Attributes:
      canvas: (height, width) in pixels that the images are resized onto.
      arrays: the batch.
      seen: number of distinct images that were read.
      bad: (image row of the index, reason) of the images that failed.
      damaged: (image row, libjpeg's warning) of images that are used despite a warning.
    """

    canvas: tuple[int, int]
    arrays: Batch
    seen: int
    bad: list[tuple[int, str]]
    damaged: list[tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """Why an image failed, or libjpeg's warning about it; "" if there is none."""

    reason: str = ""
    warning: str = ""


class BatchMaker:
    """Makes the batch of a step, decoding its images on an executor.

    Attributes:
      fields: arrays of its batches, in order.

    Args:
      plan: which examples form which batch.
      index: where texts and images are.
      skip: mask the group of an image that fails, instead of raising. A partner's image
        that fails is only left out.
      rows: int [n], the groups of the global batch to make.
      executor: runs one task per image.
      closing: once set, work ends with `ClosedError`.
      targets: makes arrays of the texts' annotations.
      blank: read no image; all sizes are (0, 0).
      augmentation: what is drawn for each image; None: nothing.
      features: features of all images, which are read instead; None: read images.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        index: Index,
        *,
        skip: bool,
        rows: np.ndarray,
        executor: Executor,
        closing: threading.Event,
        targets: Targets | None = None,
        blank: bool = False,
        augmentation: Augmentation | None = None,
        features: PhotoFeatures | None = None,
    ):
        self._plan = plan
        self._features = features
        self._augmentation = augmentation
        self._index = index
        self._skip = skip
        self._rows = rows
        self._executor = executor
        self._closing = closing
        self._targets = targets
        self._blank_images = blank
        self._partners = isinstance(plan, EvaluationPlan) and plan.partners
        self.fields: dict[str, Field] = {
            **FIELDS,
            **(EVALUATION_FIELDS if self._partners else {}),
            **(targets.fields if targets is not None else {}),
        }
        # Names of an image's pixels or features, and of their size.
        self._visual = "image", "source_size"
        if features is not None:
            self.fields = with_features(self.fields, features.store.dtype)
            self._visual = "features", "features_size"

    def make(self, step: int) -> Made:
        """Returns the batch of a step.

        Raises:
          ImageError: an image is missing or cannot be decoded, and not `skip`.
          TimeoutError: no image came for `READ_LIMIT` seconds.
          ClosedError: `closing` was set.
          Exception: any other error of reading an image, with a note that names it.
        """
        rows = self._rows
        planned = self._plan.batch(step)
        corpus, texts = planned.corpus[rows], planned.texts[rows]
        shown = planned.images[rows]
        visual, visual_size = self._visual
        image = self._blank(shown, planned.bucket)
        wanted = [(shown, image)]
        arrays: Batch = {
            visual: image,
            "image_id": np.where(shown >= 0, self._index.image_ids[shown], -1),
            "corpus": corpus,
            "example_id": planned.example_id[rows],
            "example_mask": texts >= 0,
        }
        arrays[visual_size], arrays["image_size"] = self._sizes(shown)
        mirrored = None
        if self._augmentation:
            short, mirrored = self._augmentation.draw(
                step, arrays["example_id"], shown.shape[1]
            )
            arrays["image_size"] = self._sizes(shown, short)[1]
        arrays["text_ids"], arrays["text_mask"] = self._texts(corpus, texts)
        if self._partners:
            others = planned.other_images[rows]
            arrays[OTHER + visual] = self._blank(others, planned.bucket)
            wanted.append((others, arrays[OTHER + visual]))
            sizes = self._sizes(others)
            arrays[OTHER + visual_size], arrays["other_image_size"] = sizes
            ids, mask = self._texts(corpus, planned.negatives[rows])
            arrays["negative_ids"], arrays["negative_mask"] = ids, mask
        if self._targets is not None:
            arrays |= self._targets.arrays(
                self._annotations(corpus, texts), texts.shape
            )
        found = {} if self._blank_images else self._read(wanted)
        if mirrored is not None:  # never with features
            for g, m in np.argwhere(mirrored):
                height, width = arrays[visual_size][g, m]
                valid = image[g, m, :height, :width]
                valid[:] = valid[:, ::-1].copy()
        bad = [(row, one.reason) for row, one in found.items() if one.reason]
        bad_rows = [row for row, _ in bad]
        failed = np.isin(shown, bad_rows).any(axis=1)
        for key in (visual, visual_size, "image_size", "example_mask"):
            arrays[key][failed] = 0
        arrays["image_id"][failed] = -1
        if self._partners:
            failed = np.isin(others, bad_rows).any(axis=1)
            for key in (OTHER + visual, OTHER + visual_size, "other_image_size"):
                arrays[key][failed] = 0
        damaged = [(row, one.warning) for row, one in found.items() if one.warning]
        ordered = {
            key: np.ascontiguousarray(arrays[key], field.dtype)
            for key, field in self.fields.items()
        }
        return Made(planned.bucket.canvas, ordered, len(found), bad, damaged)

    def _annotations(self, corpus: np.ndarray, texts: np.ndarray) -> list[Any]:
        """Returns the annotations of text rows [G, K]; None for an empty slot."""
        corpora = np.broadcast_to(corpus[:, None], texts.shape)
        return [
            self._index.annotation(c, row) if row >= 0 else None
            for c, row in zip(corpora.flat, texts.flat, strict=True)
        ]

    def _blank(self, image_rows: np.ndarray, bucket: Bucket) -> np.ndarray:
        if self._features is None:
            shape = (*image_rows.shape, bucket.source, bucket.source, 3)
            return np.zeros(shape, np.uint8)
        store = self._features.store
        grid = store.grid(np.asarray(bucket.canvas)).tolist()
        return np.zeros((*image_rows.shape, *grid, store.channels), store.dtype)

    def _sizes(
        self, image_rows: np.ndarray, short: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns source_size and image_size of image rows, int32 [G, M, 2] each.

        With features, the former is features_size.

        Args:
          image_rows: int [G, M].
          short: int [G, M], shorter sides instead of the plan's; longer sides are
            bounded in proportion, so that images fit the plan's canvas.
        """
        plan = self._plan
        short = np.full(image_rows.shape, plan.short) if short is None else short
        long = plan.long * short // plan.short
        shown = (image_rows[..., None] >= 0) & (not self._blank_images)
        original = np.where(shown, self._index.sizes[image_rows], 0)
        targets = geometry.target_sizes(original, short, long, plan.minimum)
        if self._features is not None:
            return self._features.store.grid(targets), targets
        return geometry.source_sizes(original, plan.source_canvases), targets

    def _texts(
        self, corpus: np.ndarray, texts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 and mask bool [G, K, L] of text rows [G, K]."""
        shape = (*texts.shape, self._index.max_text_length)
        ids = np.full(shape, self._index.pad_id, np.int32)
        mask = np.zeros(shape, bool)
        for c in np.unique(corpus[corpus >= 0]):
            mine = corpus == c
            got_ids, got_mask = self._index.texts(int(c), texts[mine].reshape(-1))
            ids[mine] = got_ids.reshape(-1, *shape[1:])
            mask[mine] = got_mask.reshape(-1, *shape[1:])
        return ids, mask

    def _read(self, wanted: list[tuple[np.ndarray, np.ndarray]]) -> dict[int, _Outcome]:
        """Decodes images onto their canvases.

        Args:
          wanted: pairs of image rows [G, M] and canvases [G, M, S, S, 3] to fill.

        Returns:
          {image row: outcome} of each distinct image, in order of rows.
        """
        places: dict[int, list[np.ndarray]] = {}  # an image may occur repeatedly
        for image_rows, canvases in wanted:
            for position in zip(*np.nonzero(image_rows >= 0), strict=True):
                row = int(image_rows[position])
                places.setdefault(row, []).append(canvases[position])
        try:
            tasks = {
                row: self._executor.submit(self._fill, row, places[row])
                for row in sorted(places)
            }
        except RuntimeError:  # the executor has been shut down
            if self._closing.is_set():
                raise ClosedError from None
            raise
        self._wait(tasks)
        return {row: task.result() for row, task in tasks.items()}

    def _wait(self, tasks: Mapping[int, Future[_Outcome]]) -> None:
        """Waits until all tasks are done, or one has failed; see `make` for errors."""
        waiting, last, warned = set(tasks.values()), time.monotonic(), False
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, READ_LOOK, concurrent.futures.FIRST_EXCEPTION
            )
            if self._closing.is_set():
                raise ClosedError
            for task in tasks.values():
                if task in done:
                    task.result()  # raises the error of the task
            if done:
                last = time.monotonic()
            seconds = time.monotonic() - last
            if not waiting or seconds < READ_WARN or (warned and seconds < READ_LIMIT):
                continue
            rows = [row for row, task in tasks.items() if task.running()]
            names = "; ".join(map(self._index.describe, rows[:SHOWN]))
            text = f"no image came for {seconds:.0f} s; being read: {names}"
            if seconds >= READ_LIMIT:
                raise TimeoutError(text)
            print(f"warning: {text}", file=sys.stderr, flush=True)
            warned = True

    def _fill(self, row: int, canvases: list[np.ndarray]) -> _Outcome:
        """Decodes an image onto canvases of zeros, or copies its features there."""
        warnings: list[str] = []
        if self._closing.is_set():
            raise ClosedError
        try:
            if self._features is not None:
                image = self._features.read(row)
            else:
                image = images.decode(
                    self._index.read(row),
                    tuple(self._index.sizes[row].tolist()),
                    upright=self._index.upright[self._index.image_corpus[row]],
                    report=warnings.append,
                )
        except (images.ImageError, FileNotFoundError) as error:
            # Any other OSError may be temporary. It always raises: if it masked the
            # image, the batch would not be reproducible.
            if self._skip:
                return _Outcome(reason=str(error))
            where = self._index.describe(row)
            raise images.ImageError(f"{where}: {error}") from error
        except Exception as error:
            error.add_note(f"while reading {self._index.describe(row)}")
            raise
        if self._features is not None:
            height, width = image.shape[:2]
            canvases[0][:height, :width] = image
        else:
            height, width = images.lay(image, canvases[0])
        for canvas in canvases[1:]:
            canvas[:height, :width] = canvases[0][:height, :width]
        return _Outcome(warning="; ".join(warnings))
