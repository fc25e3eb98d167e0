"""Files that survive a crash: written completely and flushed to disk, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Replaces a file atomically, once the new content is on the disk.

    Whatever interrupts this, `path` has either its old content or the new one. Several
    processes may write the same file at the same time: the last one wins.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
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
