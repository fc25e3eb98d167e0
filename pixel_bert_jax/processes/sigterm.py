"""SIGTERM as a flag, which all processes of a run see at the same step."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from pixel_bert_jax.processes import hosts


@contextlib.contextmanager
def on_sigterm() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM into a flag that is read between steps and between batches.

    Yields a function that returns whether the signal came. Several processes, which
    have to ask equally often, all get the same answer from JAX's service. The former
    handler is restored afterwards. Outside the main thread, signals are left alone.
    """
    if hosts.several():
        asked = itertools.count()
        came = [False]

        def agreed() -> bool:
            # The service reports it only once.
            came[0] |= multihost_utils.reached_preemption_sync_point(next(asked))
            return came[0]

        yield agreed
        return
    came = []
    try:
        former = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, former)
