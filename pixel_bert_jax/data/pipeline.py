"""The stream of batches: `tf.data` runs the plan ahead of its consumer.

A stream is a pure function of (plan, index, step): it saves no state, starts at any
step at once, and gives the same bytes whatever the number of threads. `tf.data` turns
steps into batches and keeps some in stock; inside, a numpy function makes one batch
(`batches.py`; `fields.py` says what it holds) with a pool of threads for its images.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Literal

# Read by the import, which is chatty otherwise; nothing is computed in TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf

from pixel_bert_jax.data.batches import BatchMaker, ClosedError
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.plan import EvaluationPlan, TrainPlan
from pixel_bert_jax.data.targets import Targets
from pixel_bert_jax.types import BadImageBudgetError, Batch, InputError, nearest

POLICIES = ("error", "skip")
BUDGET_AFTER = 100
"""Images seen before the share of bad ones is held against the budget: one bad image
among the first ten says little."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One batch of the stream.

    Attributes:
      step: its number.
      canvas: (height, width) in pixels that its images are resized onto.
      batch: arrays [G, ...] by name, read-only; see `fields`.
    """

    step: int
    canvas: tuple[int, int]
    batch: Batch


class Stream:
    """Iterates once over the batches of a plan, in order of steps.

    Close it (it is a context manager): the exit of an interpreter with a live endless
    stream can hang, because TensorFlow's threads and Python wait for each other. An
    atexit hook closes those that were forgotten.

    Attributes:
      bad_images: images that failed, of the batches handed out so far by this run.
      seen_images: images read for these batches.
      wait_seconds: time spent waiting inside `next` so far.
    """

    def __init__(
        self,
        plan: TrainPlan | EvaluationPlan,
        index: Index,
        *,
        start: int = 0,
        stop: int | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        bad_image_budget: float = 0.0,
        bad_image_list: str | Path | None = None,
        images_before: int = 0,
        max_text_length: int | None = None,
        rows: np.ndarray | None = None,
        workers: int | None = None,
        prefetch: int = 2,
        targets: Targets | None = None,
        blank_images: bool = False,
    ):
        """Checks the arguments and starts to read ahead.

        Args:
          plan: which examples form which batch.
          index: where texts and images are.
          start: first step.
          stop: step after the last; None = never for a `TrainPlan`, the plan's end for
            an `EvaluationPlan`.
          on_bad_image: "error" raises; "skip" masks the group of an image that fails,
            counts it and lists it. An `EvaluationPlan` never skips.
          bad_image_budget: greatest share of bad images under "skip"; held against
            the count once `BUDGET_AFTER` images were seen.
          bad_image_list: gets one json line (step, corpus, key, reason) for each bad
            image of a batch that was handed out. Lines that are there count as bad.
          images_before: images of the steps before `start`; the budget is that of the
            whole run, however often it was started.
          max_text_length: if given, checked against the index.
          rows: numbers of this process's groups of the global batch; None = all.
          workers: threads that read and decode; None = one a core, at most 16.
          prefetch: batches made ahead, at least 1.
          targets: makes arrays of the texts' annotations.
          blank_images: show and read no image at all.

        Raises:
          InputError: an argument is invalid.
        """
        if on_bad_image not in POLICIES:
            raise InputError(
                "config.data.on_bad_image: expected 'error' or 'skip', received "
                f"{on_bad_image!r}{nearest(on_bad_image, POLICIES)}."
            )
        if not 0 <= bad_image_budget <= 1:
            raise InputError(
                "config.data.bad_image_budget: expected a share from 0 to 1, received "
                f"{bad_image_budget!r}."
            )
        if max_text_length not in (None, index.max_text_length):
            raise InputError(
                f"Expected max_text_length {index.max_text_length}, which the index in "
                f"{index.folder} was built with; received {max_text_length}."
            )
        evaluation = isinstance(plan, EvaluationPlan)
        if stop is None:
            stop = plan.num_batches if evaluation else np.iinfo(np.int64).max
        self._list = None if bad_image_list is None else Path(bad_image_list)
        self.bad_images = 0
        if self._list is not None and self._list.exists():
            self.bad_images = len(self._list.read_text("utf-8").splitlines())
        self.seen_images = images_before
        self.wait_seconds = 0.0
        self._index = index
        self._budget = bad_image_budget
        self._notes: dict[int, tuple[int, list[tuple[int, str]]]] = {}
        self._failure: BaseException | None = None
        self._closing = threading.Event()
        self._executor = concurrent.futures.ThreadPoolExecutor(
            workers or min(os.cpu_count() or 1, 16), "read-images"
        )
        self._maker = BatchMaker(
            plan,
            index,
            skip=on_bad_image == "skip" and not evaluation,
            rows=np.arange(plan.groups) if rows is None else rows,
            executor=self._executor,
            closing=self._closing,
            targets=targets,
            blank=blank_images,
        )
        self._iterator = self._dataset(start, stop, max(prefetch, 1))
        _OPEN.add(self)

    def __iter__(self) -> Stream:
        return self

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def __next__(self) -> Step:
        """Returns the next batch.

        Raises:
          StopIteration: after the last, or once closed.
          ImageError, OSError, ...: what the reader raised, naming the image.
          BadImageBudgetError: too many images failed. All of these close the stream.
        """
        if self._iterator is None:
            raise StopIteration
        began = time.perf_counter()
        try:
            step, canvas, *arrays = next(self._iterator)
        except tf.errors.OpError:
            failure = self._failure
            self.close()
            if failure is None:
                raise
            # The reader's own error and traceback, not TensorFlow's text about it.
            raise failure from None
        except BaseException:  # the end, or an interrupt
            self.close()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - began
        self._account(int(step))
        batch = dict(zip(self._maker.fields, arrays, strict=True))
        return Step(int(step), (int(canvas[0]), int(canvas[1])), batch)

    def close(self) -> None:
        """Stops reading and lets go of all threads; may be called again."""
        _OPEN.discard(self)
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._iterator = None  # its destructor ends TensorFlow's prefetching

    def _dataset(self, start: int, stop: int, prefetch: int) -> Any:
        """Returns an iterator of [step, canvas, *arrays in the order of the fields]."""
        _hide_gpus()
        # A weak reference: TensorFlow keeps functions longer than their data sets.
        make = functools.partial(_make, weakref.ref(self))
        types = [np.int64, np.int32, *(f.dtype for f in self._maker.fields.values())]

        def load(step: tf.Tensor) -> list[tf.Tensor]:
            return tf.numpy_function(make, [step], types)

        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1  # images have their own threads
        options.threading.max_intra_op_parallelism = 1
        dataset = tf.data.Dataset.range(start, stop).map(load).prefetch(prefetch)
        return dataset.with_options(options).as_numpy_iterator()

    def _produce(self, step: int) -> list[Any]:
        """Makes a batch on TensorFlow's thread, keeping an error for the consumer."""
        if self._closing.is_set():
            raise ClosedError
        try:
            made = self._maker.make(step)
        except BaseException as error:
            self._failure = self._failure or error  # the first is the cause
            raise
        self._notes[step] = (made.seen, made.bad)
        return [
            np.int64(step),
            np.array(made.canvas, np.int32),
            *made.arrays.values(),
        ]

    def _account(self, step: int) -> None:
        """Counts, lists and judges the bad images of a batch that is handed out."""
        seen, bad = self._notes.pop(step)
        self.seen_images += seen
        self.bad_images += len(bad)
        if bad and self._list is not None:
            with self._list.open("a", encoding="utf-8") as file:
                for row, reason in bad:
                    corpus = self._index.corpora[self._index.image_corpus[row]]
                    key = self._index.key(row)
                    line = {"step": step, "corpus": corpus, "key": key}
                    file.write(json.dumps(line | {"reason": reason}) + "\n")
        over = self.bad_images > self._budget * self.seen_images
        if over and self.seen_images >= BUDGET_AFTER:
            self.close()
            listed = f"; all are listed in {self._list}" if self._list else ""
            last = f" The last: {self._index.describe(bad[-1][0])}." if bad else ""
            raise BadImageBudgetError(
                f"{self.bad_images} of {self.seen_images} images failed, more than "
                f"data.bad_image_budget={self._budget} allows{listed}.{last}"
            )


def _make(stream: weakref.ref[Stream], step: np.ndarray) -> list[Any]:
    target = stream()
    if target is None:
        raise ClosedError
    return target._produce(int(step))


def _hide_gpus() -> None:
    """Keeps TensorFlow from taking the memory of GPUs that JAX computes on."""
    # It refuses if another user of TensorFlow in this process came first and decided.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


_OPEN: weakref.WeakSet[Stream] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for stream in list(_OPEN):
        stream.close()
