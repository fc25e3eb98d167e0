"""The stream of batches: `tf.data` makes batches of the plan ahead of time.

A stream is a pure function of (plan, index, step): it has no state to save, starts at
any step at once, and yields the same bytes whatever the number of threads. `tf.data`
maps steps to batches and prefetches some of them; each is made by `batches.py`, in
numpy, with a pool of threads for its images.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Literal

# TensorFlow reads these when it is imported. They only silence messages: nothing is
# computed in TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf

from pixel_bert_jax.data.augment import Augmentation
from pixel_bert_jax.data.batches import BatchMaker, ClosedError, Made
from pixel_bert_jax.data.features import PhotoFeatures
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.plan import EvaluationPlan, TrainPlan
from pixel_bert_jax.data.targets import Targets
from pixel_bert_jax.types import BadImageBudgetError, Batch, InputError, nearest

POLICIES = ("error", "skip")
SHOWN = 10
"""Images of a kind (left out, or with libjpeg's warning) that are named on stderr."""
BUDGET_AFTER = 100
"""Images seen before the share of bad images is compared with the budget: with fewer,
one bad image is too large a share."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One batch of the stream.

    Attributes:
      step: number of the step.
      canvas: (height, width) in pixels that its images are resized onto.
      batch: read-only arrays [G, ...] by name; see `fields.py`.
    """

    step: int
    canvas: tuple[int, int]
    batch: Batch


class Stream:
    """Iterates once over the batches of a plan, in order of steps.

    A stream should be closed (it is a context manager): with an open endless stream an
    interpreter can hang at its exit, because TensorFlow's threads and Python wait for
    each other. An atexit hook closes all that are still open.

    Attributes:
      bad_images: number of times an image failed in batches returned by this run.
      missing: {image row of the index: reason} of the images that failed in batches
        returned by this stream.
      seen_images: number of images read for batches returned by this run.
      wait_seconds: time spent waiting inside `next` so far, seconds.
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
        augmentation: Augmentation | None = None,
        features: PhotoFeatures | None = None,
    ):
        """Checks the arguments and starts to read ahead.

        Args:
          plan: which examples form which batch.
          index: where texts and images are.
          start: first step.
          stop: step after the last one; None: a `TrainPlan` does not end, an
            `EvaluationPlan` ends with its last batch.
          on_bad_image: "error" raises; "skip" masks the group of an image that fails,
            counts it and lists it.
          bad_image_budget: greatest share of bad images with "skip"; checked once
            `BUDGET_AFTER` images were seen, and at the end of an `EvaluationPlan`.
          bad_image_list: file to which a JSON line (step, corpus, key, reason) is
            appended for each image that the index leaves out, with step -1, and for
            each bad image of a returned batch. Bad images of batches that are already
            listed are counted.
          images_before: number of images of the steps before `start`, because the
            budget is that of the whole run, however often it was started.
          max_text_length: if given, it has to be that of the index.
          rows: int [n], this process's groups of the global batch; None: all.
          workers: threads that read and decode; None: one per core, at most 16.
          prefetch: number of batches to make ahead, at least 1.
          targets: makes arrays of the texts' annotations.
          blank_images: read no image; all sizes are (0, 0).
          augmentation: random sizes and mirroring; None: neither.
          features: features of all images, which are read instead; None: read images.

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
        if self._list is not None:
            first = rows is None or 0 in rows  # one process lists what is left out
            self.bad_images = _begin_list(self._list, index if first else None)
        self.missing: dict[int, str] = {}
        self._damaged: set[int] = set()
        self._last_check = evaluation
        self.seen_images = images_before
        self.wait_seconds = 0.0
        self._index = index
        self._budget = bad_image_budget
        self._notes: dict[int, Made] = {}
        self._failure: BaseException | None = None
        self._closing = threading.Event()
        self._executor = concurrent.futures.ThreadPoolExecutor(
            workers or min(os.cpu_count() or 1, 16), "read-images"
        )
        self._maker = BatchMaker(
            plan,
            index,
            skip=on_bad_image == "skip",
            rows=np.arange(plan.groups) if rows is None else rows,
            executor=self._executor,
            closing=self._closing,
            targets=targets,
            blank=blank_images,
            augmentation=augmentation,
            features=features,
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
          StopIteration: after the last batch, or once closed.
          BadImageBudgetError: too many images failed.
          Exception: any error of `BatchMaker.make`. All errors close the stream.
        """
        if self._iterator is None:
            raise StopIteration
        began = time.perf_counter()
        try:
            step, canvas, *arrays = next(self._iterator)
            if step < 0:
                raise self._failure or ClosedError
        except BaseException as error:  # an error, the end, or an interrupt
            self.close()
            if isinstance(error, StopIteration) and self._last_check:
                self._check_budget()
            raise
        finally:
            self.wait_seconds += time.perf_counter() - began
        self._account(int(step))
        batch = dict(zip(self._maker.fields, arrays, strict=True))
        return Step(int(step), (int(canvas[0]), int(canvas[1])), batch)

    def close(self) -> None:
        """Stops reading without waiting for threads; may be called repeatedly."""
        _OPEN.discard(self)
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._iterator = None  # its destructor ends TensorFlow's prefetching

    def _dataset(self, start: int, stop: int, prefetch: int) -> Any:
        """Returns an iterator of [step, canvas, *arrays in the order of the fields]."""
        _hide_gpus()
        # A weak reference, as TensorFlow keeps functions longer than their data sets.
        types = [np.int64, np.int32, *(f.dtype for f in self._maker.fields.values())]
        nothing = [np.int64(-1), *(np.zeros(0, dtype) for dtype in types[1:])]
        make = functools.partial(_make, weakref.ref(self), nothing)

        def load(step: tf.Tensor) -> list[tf.Tensor]:
            return tf.numpy_function(make, [step], types)

        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1  # images have their own threads
        options.threading.max_intra_op_parallelism = 1
        dataset = tf.data.Dataset.range(start, stop).map(load).prefetch(prefetch)
        return dataset.with_options(options).as_numpy_iterator()

    def _produce(self, step: int) -> list[Any] | None:
        """Makes a batch on TensorFlow's thread; returns None if that failed.

        The error is kept for `__next__`: TensorFlow would wrap it and print pages.
        """
        if self._closing.is_set() or self._failure is not None:
            return None
        try:
            made = self._maker.make(step)
        except BaseException as error:
            self._failure = error
            return None
        self._notes[step] = dataclasses.replace(made, arrays={})
        return [np.int64(step), np.array(made.canvas, np.int32), *made.arrays.values()]

    def _account(self, step: int) -> None:
        """Counts and lists the bad images of a batch, and checks the budget."""
        made = self._notes.pop(step)
        self.seen_images += made.seen
        self.bad_images += len(made.bad)
        _say(self._index, made.damaged, self._damaged)
        _say(self._index, made.bad, set(self.missing), "left out: ")
        self.missing |= dict(made.bad)
        if made.bad and self._list is not None:
            with self._list.open("a", encoding="utf-8") as file:
                for row, reason in made.bad:
                    corpus = self._index.corpora[self._index.image_corpus[row]]
                    file.write(_line(step, corpus, self._index.key(row), reason))
        if self.seen_images >= BUDGET_AFTER:
            self._check_budget()

    def _check_budget(self) -> None:
        """Raises BadImageBudgetError if the share of bad images is too large."""
        if self.bad_images <= self._budget * self.seen_images:
            return
        self.close()
        listed = f"; all are listed in {self._list}" if self._list else ""
        last = ""
        if self.missing:
            last = f" The last: {self._index.describe(list(self.missing)[-1])}."
        raise BadImageBudgetError(
            f"{self.bad_images} of {self.seen_images} images failed, more than "
            f"data.bad_image_budget={self._budget} allows{listed}.{last}"
        )


def _make(
    stream: weakref.ref[Stream], nothing: list[Any], step: np.ndarray
) -> list[Any]:
    target = stream()
    made = None if target is None else target._produce(int(step))
    return nothing if made is None else made


def _begin_list(path: Path, index: Index | None) -> int:
    """Adds the images that an index leaves out to a list of bad images.

    Returns:
      The number of bad images of batches that are listed already.
    """
    lines = []
    if path.exists():
        lines = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    listed = {(line["corpus"], line["key"]) for line in lines if line["step"] < 0}
    new = [
        _line(-1, index.corpora[c], key, reason)
        for c, key, reason in (index.left_out if index is not None else ())
        if (index.corpora[c], key) not in listed
    ]
    if new:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(new)
    return sum(line["step"] >= 0 for line in lines)


def _line(step: int, corpus: str, key: str, reason: str) -> str:
    line = {"step": step, "corpus": corpus, "key": key, "reason": reason}
    return json.dumps(line) + "\n"


def _say(
    index: Index, found: list[tuple[int, str]], said: set[int], what: str = ""
) -> None:
    """Prints a warning for each image that is not in `said`, up to `SHOWN` of them."""
    for row, text in found:
        if row in said or len(said) > SHOWN:
            continue
        said.add(row)
        line = f"{index.describe(row)}: {what}{text}"
        if len(said) > SHOWN:
            line = "further images of this kind are not named"
        print(f"warning: {line}", file=sys.stderr, flush=True)


def _hide_gpus() -> None:
    """Keeps TensorFlow from allocating the memory of GPUs that JAX uses."""
    # TensorFlow raises if other code in this process has initialised it already.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


_OPEN: weakref.WeakSet[Stream] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for stream in list(_OPEN):
        stream.close()
