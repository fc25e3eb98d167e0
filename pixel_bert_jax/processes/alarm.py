"""If one process of a run fails, all end at once, with its reason and exit code.

JAX detects a lost process only when its heartbeats fail, does not name it, and aborts.
Therefore the connections to process 0 that were made at the start stay open: a process
that ends sends its reason first, and a process that is lost breaks its connection.
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
GRACE = 10.0  # seconds that processes have to end by themselves, for example to save
LONGEST = 1 << 26  # bytes of the longest message that is accepted


def send(connection: socket.socket, value: Any) -> None:
    """Sends a value as JSON, preceded by its length in bytes (8 bytes, big-endian)."""
    data = json.dumps(value).encode()
    connection.sendall(len(data).to_bytes(8, "big") + data)


def receive(connection: socket.socket) -> Any:
    """Returns the next value.

    Raises:
      OSError: the connection is closed, or the timeout of the socket has passed.
      ValueError: the data is not a message of `send`.
    """

    def exactly(count: int) -> bytes:
        if count > LONGEST:
            raise ValueError(f"a message of {count} bytes is too long")
        data = b""
        while len(data) < count:
            part = connection.recv(min(count - len(data), 1 << 16))
            if not part:
                raise ConnectionError("the connection is closed")
            data += part
        return data

    return json.loads(exactly(int.from_bytes(exactly(8), "big")))


class Alarm:
    """Connects process 0 with all other processes, and each of them with process 0."""

    def __init__(self, name: str, others: Mapping[str, socket.socket], first: bool):
        """Starts to listen.

        Args:
          name: name of this process in messages.
          others: connections to other processes, by their names in messages.
          first: whether this is process 0.
        """
        self._name, self._others, self._first = name, dict(others), first
        self._lock = threading.Lock()
        self._code: int | None = None  # exit code of the first process that failed
        self._leaving = threading.Event()
        self._threads = [
            threading.Thread(target=self._listen, args=other, name="alarm", daemon=True)
            for other in self._others.items()
        ]
        for connection in self._others.values():
            connection.settimeout(None)
            # A host that loses power closes no connection: probe an idle connection
            # after 20 s, then every 10 s, up to three times.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for field, value in (("IDLE", 20), ("INTVL", 10), ("CNT", 3)):
                if option := getattr(socket, f"TCP_KEEP{field}", None):
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
        for thread in self._threads:
            thread.start()

    def leave(self, code: int, text: str = "") -> int:
        """Informs the others that this process ends; returns its exit code.

        Args:
          code: exit code; any except those of `IN_ORDER` ends the others too.
          text: reason, printed by the others.

        Returns:
          `code`, or the exit code of a process that failed earlier.
        """
        message = {"code": code, "text": f"{self._name} ended: {text}", "lost": False}
        if code in IN_ORDER:
            # A later failure of another process still ends this one, which may wait
            # for the others at its exit.
            self._tell(message)
            return code
        # Only the first failure counts: later ones are its consequences.
        with self._lock:
            follows, self._code = self._code, self._code or code
        self._leaving.set()
        if follows is None:
            self._tell(message)
        self._wait_for_others()
        return self._code

    def _wait_for_others(self, but: threading.Thread | None = None) -> None:
        """Keeps process 0 alive until the others have ended.

        Process 0 runs JAX's coordination service, without which JAX aborts the others.
        """
        until = time.monotonic() + GRACE + 2
        for thread in self._threads if self._first else ():
            if thread is not but:
                thread.join(max(until - time.monotonic(), 0))

    def _tell(self, message: Mapping[str, Any], but: str = "") -> None:
        for name, connection in self._others.items():
            if name != but:
                with contextlib.suppress(OSError):  # it has ended already
                    send(connection, message)

    def _listen(self, name: str, connection: socket.socket) -> None:
        """Reads the messages of one process until its connection is closed."""
        in_order = False
        while True:
            try:
                message = receive(connection)
                code, text, lost = (message[key] for key in ("code", "text", "lost"))
            except (OSError, ValueError, KeyError, TypeError):
                if in_order:  # the process has announced its end
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
        # If a process is lost, no collective can finish, so there is no need to wait.
        if not lost and self._leaving.wait(GRACE):
            return  # this process is ending by itself
        self._wait_for_others(but=threading.current_thread())
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)
