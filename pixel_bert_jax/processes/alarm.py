"""The end of one process is the end of all, at once and with its reason.

JAX misses a lost process when its heartbeats fail, does not say whose, and aborts. So
the connections by which processes met at the start stay open, each to process 0:
whoever ends says why, and whoever is lost breaks its connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from pixel_bert_jax.types import EXIT_DONE, EXIT_LOST, EXIT_PREEMPTED

IN_ORDER = (EXIT_DONE, EXIT_PREEMPTED)
GRACE = 10.0  # seconds for what the others do at their end, such as saving
LONGEST = 1 << 26  # bytes of a message


def send(connection: socket.socket, value: Any) -> None:
    """Sends a plain value."""
    data = json.dumps(value).encode()
    connection.sendall(len(data).to_bytes(8, "big") + data)


def receive(connection: socket.socket) -> Any:
    """Returns the next value.

    Raises:
      OSError: the other side is gone, or silent for the connection's timeout.
      ValueError: that was none of our messages.
    """

    def exactly(count: int) -> bytes:
        if count > LONGEST:
            raise ValueError("no message of ours is so long")
        data = b""
        while len(data) < count:
            part = connection.recv(min(count - len(data), 1 << 16))
            if not part:
                raise ConnectionError("the other side is gone")
            data += part
        return data

    return json.loads(exactly(int.from_bytes(exactly(8), "big")))


class Alarm:
    """Connects this process with process 0, or process 0 with all others."""

    def __init__(self, name: str, others: Mapping[str, socket.socket], first: bool):
        """Begins to listen.

        Args:
          name: of this process, for the others.
          others: connections by the names of those behind them.
          first: whether this is process 0.
        """
        self._name, self._others, self._first = name, dict(others), first
        self._lock = threading.Lock()
        self._code: int | None = None  # with which a process failed, this or another
        self._leaving = threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, args=other, name="alarm", daemon=True)
            for other in self._others.items()
        ]
        for connection in self._others.values():
            connection.settimeout(None)
            # A host without power closes nothing: after 20 s it is asked, three times.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for field, value in (("IDLE", 20), ("INTVL", 10), ("CNT", 3)):
                if option := getattr(socket, f"TCP_KEEP{field}", None):
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
        for thread in self._threads:
            thread.start()

    def leave(self, code: int, text: str = "") -> int:
        """Tells the others that this process ends, and returns the code to end with.

        Args:
          code: exit code; any but `IN_ORDER` ends the others too.
          text: why.
        """
        message = {"code": code, "text": f"{self._name} ended: {text}", "lost": False}
        if code in IN_ORDER:
            # What happens to the others from here on still ends this process, which
            # may wait for them at its exit.
            self._tell(message)
            return code
        with self._lock:
            follows, self._code = self._code, self._code or code
        self._leaving.set()
        if follows is None:
            self._tell(message)
        self._wait_for_others()
        return self._code

    def _wait_for_others(self, but: threading.Thread | None = None) -> None:
        """Keeps process 0, and JAX's service in it, until the others are gone.

        Without the service they would be aborted.
        """
        until = time.monotonic() + GRACE + 2
        for thread in self._threads if self._first else ():
            if thread is not but:
                thread.join(max(until - time.monotonic(), 0))

    def _tell(self, message: Mapping[str, Any], but: str = "") -> None:
        for name, connection in self._others.items():
            if name != but:
                with contextlib.suppress(OSError):  # gone already
                    send(connection, message)

    def _listen(self, name: str, connection: socket.socket) -> None:
        """Reads what one process says until its connection breaks."""
        in_order = False
        while True:
            try:
                message = receive(connection)
                code, text, lost = (message[key] for key in ("code", "text", "lost"))
            except (OSError, ValueError, KeyError, TypeError):
                if in_order:
                    return
                code, text, lost = EXIT_LOST, f"{name} is gone without a word", True
            if code in IN_ORDER:
                in_order = True
                continue
            with self._lock:
                ends, self._code = self._code is None, self._code or code
            if ends:
                self._end(name, code, text, lost)
            if lost:
                return

    def _end(self, name: str, code: int, text: str, lost: bool) -> None:
        """Ends this process because another one failed."""
        self._tell({"code": code, "text": text, "lost": lost}, but=name)
        print(f"error: {text}", file=sys.stderr, flush=True)
        # With a process that is lost nothing in common can be done any more.
        if not lost and self._leaving.wait(GRACE):
            return  # by itself
        self._wait_for_others(but=threading.current_thread())
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)
