"""What a folder of a checkpoint holds, file by file, so that damage is noticed.

Nothing else would: a flipped bit in an array is read back as another number. The
manifest is the last file that is written before a folder gets its final name, so a
folder that is there has one, and is whole if its files are as listed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pixel_bert_jax import durable

FILE = "manifest.json"
# Orbax completes this record when the folder gets its name; all else in it counts.
RECORD, COMPLETED = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"
SHOWN = 5


def write(folder: Path) -> None:
    """Lists all files of `folder` with sizes and hashes, and flushes them to disk."""
    entries = {}
    for name, path in _files(folder).items():
        size, digest = _identity(name, path)
        entries[name] = {"bytes": size, "sha256": digest}
        durable.sync(path)
    content = {"files": entries, "sha256": _digest(entries)}
    durable.write(folder / FILE, json.dumps(content, indent=1).encode())


def faults(folder: Path) -> list[str]:
    """Reads all files of `folder` and compares them with its manifest.

    Returns:
      What is wrong, the first few faults in words; [] if nothing is.
    """
    try:
        content = json.loads((folder / FILE).read_text("utf-8"))
        entries, digest = content["files"], content["sha256"]
    except FileNotFoundError:
        return [f"it has no {FILE}: not complete, or of an earlier version"]
    except (ValueError, KeyError, TypeError):
        return [f"its {FILE} is damaged"]
    if digest != _digest(entries):
        return [f"its {FILE} is damaged"]
    found = _files(folder)
    out = [f"{name} is missing" for name in entries.keys() - found.keys()]
    for name in entries.keys() & found.keys():
        size, now = _identity(name, found[name])
        if size != entries[name]["bytes"]:
            written = entries[name]["bytes"]
            out.append(f"{name} has {size} bytes, {written} were written")
        elif now != entries[name]["sha256"]:
            out.append(f"{name} is not what was written (SHA-256 differs)")
    return sorted(out)[:SHOWN]


def _digest(entries: object) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _identity(name: str, path: Path) -> tuple[int, str]:
    """Returns the number of bytes of a file and their SHA-256, in hex."""
    if name == RECORD:
        content = path.read_bytes()
        try:
            record = dict(json.loads(content))
            record.pop(COMPLETED, None)
            content = json.dumps(record, sort_keys=True).encode()
        except (ValueError, TypeError):
            pass  # it is damaged, and so another text
        return len(content), hashlib.sha256(content).hexdigest()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return size, hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Returns the path of every file of a folder but the manifest, by its name."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
