"""One process a workdir: two would overwrite each other's checkpoints."""

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
    """Holds a workdir for this process; the system lets go of it when that dies.

    Raises:
      InputError: another process holds it; names that. Or it cannot be written to.
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
            print(f"{workdir} is not locked: {error}", file=sys.stderr)
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        yield
