"""Makes one batch: asks the plan what is in it, reads, decodes and lays out. No TF.

`fields.py` says what a batch holds; its first axis counts this process's groups (all G
in a single process). One failed image masks its whole group, of which corpus, texts
and example ids stay: the batch is still a pure function of the plan and of the files'
bytes.
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
from pixel_bert_jax.data.fields import EVALUATION_FIELDS, FIELDS, Field
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.plan import EvaluationPlan, TrainPlan
from pixel_bert_jax.data.targets import Targets
from pixel_bert_jax.types import Batch

# Seconds without any image until it is said, and until it is an error: a file system
# that hangs raises nothing. So often it is looked.
READ_WARN, READ_LIMIT, READ_LOOK = 30.0, 300.0, 0.2
SHOWN = 3


class ClosedError(RuntimeError):
    """Ends the work on a batch that nobody will ask for."""


@dataclasses.dataclass(frozen=True)
class Made:
    """A batch and what happened on the way.

    Attributes:
      canvas: (height, width) in pixels that the images are resized onto.
      arrays: the batch.
      seen: different images that were read for it.
      bad: (row of the image table, reason) of those that failed.
      damaged: (row, libjpeg's warning) of those that are used in spite of it.
    """

    canvas: tuple[int, int]
    arrays: Batch
    seen: int
    bad: list[tuple[int, str]]
    damaged: list[tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What became of an image: why it failed, or what libjpeg warned of; "" if not."""

    reason: str = ""
    warning: str = ""


class BatchMaker:
    """Turns a step's number into arrays, decoding the images on an executor.

    Attributes:
      fields: what its batches hold, in order.

    Args:
      plan: which examples form which batch.
      index: where texts and images are.
      skip: mask the group of an image that fails, instead of raising. A group whose
        other image fails has none.
      rows: numbers of the groups of the global batch to make.
      executor: runs one task an image.
      closing: once set, work ends with `ClosedError`.
      targets: makes arrays of the texts' annotations.
      blank: show no image at all: their sizes are (0, 0), and none is read.
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
    ):
        self._plan = plan
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

    def make(self, step: int) -> Made:
        """Returns the batch of a step.

        Raises:
          ImageError, OSError, ...: an image cannot be read; it is named.
          ClosedError: `closing` was set.
        """
        plan, rows = self._plan, self._rows
        planned = plan.batch(step)
        corpus, texts = planned.corpus[rows], planned.texts[rows]
        shown = planned.images[rows]
        image = self._blank(shown, planned.bucket.source)
        wanted = [(shown, image)]
        arrays: Batch = {
            "image": image,
            "image_id": np.where(shown >= 0, self._index.image_ids[shown], -1),
            "corpus": corpus,
            "example_id": planned.example_id[rows],
            "example_mask": texts >= 0,
        }
        arrays["source_size"], arrays["image_size"] = self._sizes(shown)
        arrays["text_ids"], arrays["text_mask"] = self._texts(corpus, texts)
        if self._partners:
            others = planned.other_images[rows]
            arrays["other_image"] = self._blank(others, planned.bucket.source)
            wanted.append((others, arrays["other_image"]))
            sizes = self._sizes(others)
            arrays["other_source_size"], arrays["other_image_size"] = sizes
            ids, mask = self._texts(corpus, planned.negatives[rows])
            arrays["negative_ids"], arrays["negative_mask"] = ids, mask
        if self._targets is not None:
            arrays |= self._targets.arrays(
                self._annotations(corpus, texts), texts.shape
            )
        found: dict[int, _Outcome] = {}
        if not self._blank_images:
            found = self._read(wanted)
        bad = [(row, one.reason) for row, one in found.items() if one.reason]
        if bad:
            failed = np.isin(shown, [row for row, _ in bad]).any(axis=1)
            for key in ("image", "source_size", "image_size", "example_mask"):
                arrays[key][failed] = 0
            arrays["image_id"][failed] = -1
        if bad and self._partners:
            failed = np.isin(others, [row for row, _ in bad]).any(axis=1)
            for key in ("other_image", "other_source_size", "other_image_size"):
                arrays[key][failed] = 0
        damaged = [(row, one.warning) for row, one in found.items() if one.warning]
        ordered = {
            key: np.ascontiguousarray(arrays[key], field.dtype)
            for key, field in self.fields.items()
        }
        return Made(planned.bucket.canvas, ordered, len(found), bad, damaged)

    def _annotations(self, corpus: np.ndarray, texts: np.ndarray) -> list[Any]:
        """Returns the annotations of rows [G, K] in order, None for empty slots."""
        corpora = np.broadcast_to(corpus[:, None], texts.shape)
        return [
            self._index.annotation(c, row) if row >= 0 else None
            for c, row in zip(corpora.flat, texts.flat, strict=True)
        ]

    def _blank(self, image_rows: np.ndarray, source: int) -> np.ndarray:
        return np.zeros((*image_rows.shape, source, source, 3), np.uint8)

    def _sizes(self, image_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns source_size and image_size, int32 [G, M, 2] each."""
        plan = self._plan
        shown = (image_rows[..., None] >= 0) & (not self._blank_images)
        original = np.where(shown, self._index.sizes[image_rows], 0)
        return (
            geometry.source_sizes(original, plan.source_canvases),
            geometry.target_sizes(original, plan.short, plan.long, plan.minimum),
        )

    def _texts(
        self, corpus: np.ndarray, texts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 and mask bool [G, K, L] of rows [G, K]."""
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
        """Fills canvases [G, M, S, S, 3] with the images of rows [G, M].

        Returns what became of each different image, in order of rows.
        """
        places: dict[int, list[np.ndarray]] = {}  # an image may be wanted repeatedly
        for image_rows, canvases in wanted:
            for position in zip(*np.nonzero(image_rows >= 0), strict=True):
                row = int(image_rows[position])
                places.setdefault(row, []).append(canvases[position])
        try:
            tasks = {
                row: self._executor.submit(self._fill, row, places[row])
                for row in sorted(places)
            }
        except RuntimeError:  # of an executor that was shut down meanwhile
            if self._closing.is_set():
                raise ClosedError from None
            raise
        self._wait(tasks)
        return {row: task.result() for row, task in tasks.items()}

    def _wait(self, tasks: Mapping[int, Future[_Outcome]]) -> None:
        """Waits until all images are there, or one has failed.

        Raises:
          TimeoutError: none came for `READ_LIMIT` seconds; names those being read.
          ClosedError: `closing` was set.
          ImageError, OSError, ...: of the first image that failed.
        """
        waiting, last, warned = set(tasks.values()), time.monotonic(), False
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, READ_LOOK, concurrent.futures.FIRST_EXCEPTION
            )
            if self._closing.is_set():
                raise ClosedError
            for task in tasks.values():
                if task in done:
                    task.result()  # raises what it raised
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
        """Lays an image on canvases of zeros; under `skip` it may fail."""
        warnings: list[str] = []
        if self._closing.is_set():
            raise ClosedError
        try:
            data = self._index.read(row)
            image = images.decode(
                data,
                tuple(self._index.sizes[row].tolist()),
                upright=self._index.upright[self._index.image_corpus[row]],
                report=warnings.append,
            )
        except (images.ImageError, FileNotFoundError) as error:
            # Any other OSError is a fault of the moment, not of the bytes: a replay
            # could differ, so it always raises.
            reason = str(error)
            if self._skip:
                return _Outcome(reason=reason)
            where = self._index.describe(row)
            raise images.ImageError(f"{where}: {reason}") from error
        except Exception as error:
            error.add_note(f"while reading {self._index.describe(row)}")
            raise
        height, width = images.lay(image, canvases[0])
        for canvas in canvases[1:]:
            canvas[:height, :width] = canvases[0][:height, :width]
        return _Outcome(warning="; ".join(warnings))
