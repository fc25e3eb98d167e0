"""Detects a run that hangs: in a collective, in a save, in a read that never returns.

None of these raises. A thread watches the time since the last progress was recorded.
After `warn` seconds it prints the stacks of all threads, and after `limit` seconds it
ends the process, so that the launcher can start it again.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pixel_bert_jax.types import EXIT_WATCHDOG

T = TypeVar("T")


class Watchdog:
    """Watches the progress of a run while it is entered as a context."""

    def __init__(
        self, warn: float, limit: float, leave: Callable[[int, str], Any] | None = None
    ):
        """Stores the arguments; watching starts on entering the context.

        Args:
          warn: seconds without progress until stacks are printed; 0: never.
          limit: seconds without progress until the process is ended with
            `EXIT_WATCHDOG`; 0: never.
          leave: called with exit code and reason before the process is ended, to inform
            other processes.
        """
        self._leave = leave or (lambda code, text: None)
        self._warn, self._limit = warn, limit
        self._last = time.monotonic()
        self._what = "the start"
        self._warned = False
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="watchdog", daemon=True
        )

    def __enter__(self) -> Watchdog:
        """Starts watching."""
        self.alive("the start")
        if self._warn or self._limit:
            self._thread.start()
        return self

    def __exit__(self, *unused) -> None:
        """Stops watching."""
        self._over.set()

    def alive(self, what: str) -> None:
        """Records progress; `what` describes it in messages."""
        self._last, self._what, self._warned = time.monotonic(), what, False

    def watched(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Yields items, recording progress at each of them."""
        for item in items:
            self.alive(what)
            yield item

    def _watch(self) -> None:
        times = [t for t in (self._warn, self._limit) if t]
        while not self._over.wait(min(times) / 10):
            silent = time.monotonic() - self._last
            if self._limit and silent > self._limit:
                self._tell(silent, "ends the process")
                why = f"nothing was done for {silent:.0f} s, since {self._what}"
                self._leave(EXIT_WATCHDOG, why)
                # A regular exit would wait for the threads that hang.
                os._exit(EXIT_WATCHDOG)
            if self._warn and silent > self._warn and not self._warned:
                self._warned = True
                self._tell(silent, "still waiting")

    def _tell(self, silent: float, then: str) -> None:
        print(
            f"watchdog: nothing was done for {silent:.0f} s, since {self._what}; "
            f"{then}. Stacks of all threads:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
