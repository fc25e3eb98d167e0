"""The list of a checkpoint's files with their hashes, by which damage is detected.

Nothing else detects it: a flipped bit in an array is read as another number. The
manifest is the last file written before a folder gets its final name. A folder under
its final name therefore has a manifest, and is intact if its files match it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pixel_bert_jax.data import durable

FILE = "manifest.json"
# Orbax adds the entry COMPLETED to the file RECORD when it renames the folder, so that
# the entry is left out of the hash.
RECORD, COMPLETED = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"
SHOWN = 5  # faults in a message


def write(folder: Path) -> None:
    """Lists all files of `folder` with sizes and hashes, and flushes them to disk."""
    entries = {}
    for name, path in _files(folder).items():
        size, digest = _identity(name, path)
        entries[name] = {"bytes": size, "sha256": digest}
        durable.flush(path)
    content = {"files": entries, "sha256": _digest(entries)}
    durable.write(folder / FILE, json.dumps(content, indent=1))


def faults(folder: Path) -> list[str]:
    """Compares all files of `folder` with its manifest.

    Returns:
      Descriptions of the first SHOWN faults; [] if there are none.
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
    """Returns the size of a file in bytes and its SHA-256 in hex."""
    if name != RECORD:
        return path.stat().st_size, durable.sha256(path)
    content = path.read_bytes()
    try:
        record = dict(json.loads(content))
        record.pop(COMPLETED, None)
        content = json.dumps(record, sort_keys=True).encode()
    except (ValueError, TypeError):
        pass  # damaged: hash the file as it is, so that the hash differs
    return len(content), hashlib.sha256(content).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Returns {relative name: path} of every file of a folder except the manifest."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
