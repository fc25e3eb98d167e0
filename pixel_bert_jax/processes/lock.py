"""A lock on a workdir: two runs would overwrite each other's checkpoints.

The kernel's `flock` is released when the process ends, however it ends. The package
filelock is not used: it does not tell who holds a lock, and on a file system without
locks it leaves a marker file behind when the process is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pixel_bert_jax.types import InputError

FILE = "lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a workdir until the block or the process ends.

    On a file system without locks the workdir is not locked, with a warning.

    Raises:
      InputError: another process holds the lock (the message names it), or the workdir
        cannot be written to.
    """
    try:
        opened = (workdir / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to the workdir {workdir}: {error}") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(
                f"{workdir} is in use by {holder}; give another --workdir, or stop it"
            ) from error
        except OSError as error:  # some network file systems have no locks
            print(f"warning: {workdir} is not locked: {error}", file=sys.stderr)
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        yield
