"""What this machine has: versions, devices, memory, disk, data, weights."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from pixel_bert_jax.types import EXIT_BAD_INPUT, EXIT_DONE

LEAST_DISK, LEAST_MEMORY = 5.0, 4.0  # GB
CACHE = "~/.cache/pixel_bert_jax"
NEXT = "bash launch/quickstart.sh trains a small model; pixel-bert -h asks a model"
FIX = "mend what is marked FAIL, then run pixel-bert doctor again"
PORT = 29500  # of launch/slurm.sh


def main() -> int:
    """Prints a line for each thing, with what to do if it is amiss.

    Returns:
      0, or 2 if something is amiss that keeps the program from running.
    """
    failed = False
    for good, name, text in checks():
        failed |= not good
        print(f"{'ok  ' if good else 'FAIL'}  {name:<10} {text}")
    print("next:", FIX if failed else NEXT)
    return EXIT_BAD_INPUT if failed else EXIT_DONE


def checks() -> Iterator[tuple[bool, str, str]]:
    """Yields (whether it is as it should be, name, what was found)."""
    yield True, "python", f"{platform.python_version()} in {sys.prefix}"
    yield _packages()
    yield _devices()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    note = "" if memory >= LEAST_MEMORY else f"; expected {LEAST_MEMORY:.0f} GB"
    yield memory >= LEAST_MEMORY, "memory", f"{memory:.1f} GB{note}"
    folder = Path(CACHE).expanduser()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    note = "" if free >= LEAST_DISK else f"; expected {LEAST_DISK:.0f} GB for caches"
    yield free >= LEAST_DISK, "disk", f"{free:.1f} GB free at {folder}{note}"
    yield _port()
    root = os.environ.get("PIXEL_BERT_DATA", "")
    if root and not Path(root).expanduser().is_dir():
        yield False, "data", f"PIXEL_BERT_DATA is {root}, which is no folder"
    else:
        yield True, "data", root or "none named (PIXEL_BERT_DATA); scenes need none"
    yield True, "weights", _weights()


def _packages() -> tuple[bool, str, str]:
    """Compares installed packages with the versions that were tested."""
    wrong = []
    try:
        lines = importlib.metadata.requires("pixel_bert_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return False, "packages", "pixel_bert_jax is not installed: pip install -e ."
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, expected {wanted.specifier}")
    if wrong:
        fix = "pip install -r requirements.txt"
        return False, "packages", f"{'; '.join(wrong)}: {fix}"
    return True, "packages", "as tested"


def _devices() -> tuple[bool, str, str]:
    try:
        import jax

        found = jax.devices()
    except Exception as error:  # whatever a backend raises
        return False, "devices", f"JAX finds none: {error}"
    kinds = ", ".join(sorted({device.device_kind for device in found}))
    cores = f", {os.cpu_count()} CPU cores" if found[0].platform == "cpu" else ""
    return True, "devices", f"{len(found)} ({kinds}){cores}"


def _port() -> tuple[bool, str, str]:
    with socket.socket() as one:
        try:
            one.bind(("", PORT))
        except OSError as error:
            return (
                True,
                "port",
                f"{PORT} is in use ({error}); several processes need one",
            )
    return True, "port", f"{PORT} is free, for runs of several processes"


def _weights() -> str:
    """Names the trained models beside the package."""
    folder = Path(__file__).resolve().parents[2] / "checkpoints"
    found = sorted(p.parent.name for p in folder.glob("*/model.safetensors"))
    if not found:
        return "no trained model beside the package; --model names one"
    return f"{folder}: {', '.join(found)}"
