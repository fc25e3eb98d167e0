"""Files that survive a crash: written completely and flushed to disk, or not at all."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path


def write(path: Path, content: str | bytes, *, flushed: bool = True) -> None:
    """Replaces a file atomically, once the new content is on the disk.

    Whatever interrupts this, `path` has either its old content or the new one. Several
    processes, also of several machines, may write the same file at the same time: the
    last one wins.

    Args:
      path: the file.
      content: its new content; text is encoded as UTF-8.
      flushed: wait until it is on the disk. Without, a power failure may damage it.
    """
    data = content.encode() if isinstance(content, str) else content
    # Processes of several machines often have the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if flushed:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if flushed:
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until the content of a file, or the list of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
