"""Command line: checks a folder of one's own photos before anything is trained.

    python -m pixel_bert_jax.data check FOLDER

reads the tables of captions and questions (`pixel_bert_jax/data/sources/own.py`) and
decodes every photo, in one pass, and reports all faults together. Exit codes: 0 all is
well, 2 something has to be mended.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tqdm

from pixel_bert_jax.data import images
from pixel_bert_jax.data.sources import own
from pixel_bert_jax.data.sources.base import MISSING, Problems
from pixel_bert_jax.types import EXIT_BAD_INPUT, EXIT_DONE, InputError

UNDECODABLE = "photo that cannot be decoded"


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return check(Path(options.folder).expanduser())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def check(folder: Path) -> int:
    """Reports on a folder of one's own photos; returns the exit code.

    Raises:
      InputError: it is no folder, or has no table.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one with photos")
    tables, problems = own.find(folder), _Once()
    used: dict[str, None] = {}
    home: dict[str, str] = {}  # split of each photo
    for kind, table in tables.items():
        counts = []
        for split in own.SPLITS:
            source = own.OwnPhotos(kind, table, folder, kind, split)
            source.problems = problems  # both splits report the same broken rows
            photos, texts = list(source.images()), list(source.texts())
            for photo in photos:
                if photo.fault == MISSING:
                    problems.add(MISSING, str(folder / photo.key))
                if home.setdefault(photo.key, split) != split:
                    fault = "photo that one table trains on and the other holds out"
                    problems.add(fault, str(folder / photo.key))
            if not photos:
                problems.add("table without a photo of a split", f"{table}: {split}")
            used |= {p.key: None for p in photos if p.fault != MISSING}
            counts.append(f"{len(photos):,} photos, {len(texts):,} {kind} to {split}")
        print(f"{table.name}: {'; '.join(counts)}")
    warned = 0
    for key, fault, warning in _decoded(folder, list(used)):
        if fault:
            problems.add(UNDECODABLE, f"{folder / key}: {fault}")
        elif warning:
            warned += 1
            print(f"{folder / key} can be used, but libjpeg says: {warning}")
    unused = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in images.SUFFIXES
        and path.relative_to(folder).as_posix() not in used
    ]
    if unused:
        print(f"{len(unused):,} photos are in no table, such as {unused[0]}")
    problems.raise_if_any(str(folder))
    print(f"{len(used) - warned:,} photos are whole")
    return EXIT_DONE


class _Once(Problems):
    """Faults, each counted once however often it is found."""

    def __init__(self):
        super().__init__()
        self._seen: set[tuple[str, str]] = set()

    def add(self, kind: str, where: str) -> None:
        """Adds a fault unless it is there."""
        if (kind, where) not in self._seen:
            self._seen.add((kind, where))
            super().add(kind, where)


def _decoded(folder: Path, keys: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (key, "" or why its photo cannot be decoded, "" or a warning)."""

    def read(key: str) -> tuple[str, str, str]:
        warnings: list[str] = []
        try:
            images.decode((folder / key).read_bytes(), report=warnings.append)
        except (OSError, images.ImageError) as error:
            return key, str(error), ""
        return key, "", "; ".join(map(str, warnings))

    quiet = not sys.stderr.isatty()
    with ThreadPoolExecutor() as pool:
        found = pool.map(read, keys)
        yield from tqdm.tqdm(found, "photos", len(keys), disable=quiet, leave=False)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    description, _, usage = __doc__.partition("\n")
    whole = argparse.ArgumentParser(
        prog="python -m pixel_bert_jax.data",
        description=description,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="read everything and report")
    one.add_argument("folder", help="photos with captions.csv, questions.csv, or both")
    return whole


if __name__ == "__main__":
    sys.exit(main())
