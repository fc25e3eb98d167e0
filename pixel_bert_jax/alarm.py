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

from pixel_bert_jax.types import EXIT_DONE, EXIT_HOSTS, EXIT_PREEMPTED

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
    """Connects this process with process 0, or process 0 with all others.

    Attributes:
      code: exit code of the process that ended first, once one has.
    """

    def __init__(self, name: str, others: Mapping[str, socket.socket]):
        """Begins to listen.

        Args:
          name: of this process, for the others.
          others: connections by the names of those behind them.
        """
        self.code: int | None = None
        self._name, self._others = name, dict(others)
        self._leaving = threading.Event()
        self._ringing = threading.Lock()
        self._threads = [
            threading.Thread(target=self._listen, args=other, name="alarm", daemon=True)
            for other in self._others.items()
        ]
        for connection in self._others.values():
            connection.settimeout(None)
            # A host without power closes nothing: it is asked after a minute.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        for thread in self._threads:
            thread.start()

    def leave(self, code: int, text: str = "") -> int:
        """Tells the others that this process ends, and returns the code to end with.

        Args:
          code: exit code; any but `IN_ORDER` ends the others too.
          text: why.
        """
        self._leaving.set()
        if code in IN_ORDER or self.code is None:
            self._tell({"code": code, "text": f"{self._name} ended: {text}"})
        elif self.code is not None:
            code = self.code  # this end follows from that one
        if code not in IN_ORDER:
            # Process 0 keeps JAX's service, without which the others would abort.
            until = time.monotonic() + GRACE + 1
            for thread in self._threads:
                thread.join(max(until - time.monotonic(), 0))
        return code

    def _tell(self, message: Mapping[str, Any], but: str = "") -> None:
        for name, connection in self._others.items():
            if name != but:
                with contextlib.suppress(OSError):  # gone already
                    send(connection, message)

    def _listen(self, name: str, connection: socket.socket) -> None:
        lost = False
        try:
            message = receive(connection)
        except (OSError, ValueError):
            lost = True
            message = {"code": EXIT_HOSTS, "text": f"{name} is gone without a word"}
        if message["code"] in IN_ORDER:
            return
        with self._ringing:
            if self._leaving.is_set() or self.code is not None:
                return
            self.code = message["code"]
        self._tell(message, but=name)  # of process 0 to all others
        print(f"error: {message['text']}", file=sys.stderr, flush=True)
        if not lost:  # else nothing in common can be done any more
            time.sleep(GRACE)
        os._exit(self.code)
