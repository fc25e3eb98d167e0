"""Photos that are trained on and held out: found by file, number and content.

A metric of photos that the model has seen says little about others. Visual Genome has
52,000 photos of COCO, some of COCO's held-out splits; lists overlap; folders hold
copies under other names; a file without splits is its own held-out data.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.data.index import Index
from pixel_bert_jax.types import InputError

SHOWN = 10
THREADS = 16  # readers of file sizes; on a network each waits


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The photos of one held-out corpus that one corpus trains on.

    Attributes:
      train: name of the corpus that is trained on.
      held_out: name of the one that is held out.
      photos: (key in the latter, key in the former) of the photos in both, in the order
        of the latter.
      of: number of all photos of the latter.
      texts: number of its texts that are trained on with the same photo.
    """

    train: str
    held_out: str
    photos: tuple[tuple[str, str], ...]
    of: int
    texts: int

    def __str__(self) -> str:
        named = ", ".join(
            one if one == other else f"{one} ({other})"
            for one, other in self.photos[:SHOWN]
        )
        more = ", ..." if len(self.photos) > SHOWN else ""
        return (
            f"{len(self.photos):,} of the {self.of:,} held-out photos of corpus "
            f"{self.held_out!r} are also trained on, in corpus {self.train!r}, "
            f"{self.texts:,} of their texts too: {named}{more}"
        )


def check(found: Sequence[Overlap], split: str, allowed: Iterable[str]) -> bool:
    """Refuses to evaluate what is trained on, unless that is asked for.

    Args:
      found: result of `overlaps`.
      split: the split that is evaluated.
      allowed: splits that may overlap; their metrics have to be called `trained_on/`.

    Returns:
      Whether the split overlaps.

    Raises:
      InputError: it does, and is not allowed to.
    """
    if found and split not in allowed:
        raise InputError(
            "held-out photos are trained on, their metrics would say little about new "
            "photos:\n  " + "\n  ".join(map(str, found)) + "\nHold out other photos "
            "(`splits` of a corpus), drop these from training (data.exclude, which "
            "knows photos by their numbers at COCO and Flickr), evaluate "
            "other corpora (`evaluated=False`), do not evaluate "
            "(eval.every='0 steps'), or ask for metrics of photos that are trained on, "
            "whose names then begin with trained_on/: "
            f"--config.data.allow_overlap=\"('{split}',)\""
        )
    return bool(found)


def overlaps(train: Index, held_out: Index) -> list[Overlap]:
    """Returns what of the held-out photos is trained on, one entry per two corpora.

    Photos are the same if they are the same file, have the same number at COCO or
    Flickr, or are files of equal content; the content is read where sizes agree.
    Generated images are the same if everything that decides them is.
    """
    rows: dict[tuple[str, str | int], list[int]] = {}
    for row, names in enumerate(_names(held_out)):
        for name in names:
            rows.setdefault(name, []).append(row)
    # (corpus that trains, held-out corpus) -> {held-out row: row of training}
    found: dict[tuple[int, int], dict[int, int]] = {}

    def add(row: int, other: int) -> None:
        pair = int(train.image_corpus[row]), int(held_out.image_corpus[other])
        found.setdefault(pair, {}).setdefault(other, row)

    for row, names in enumerate(_names(train)):
        for other in {other for name in names for other in rows.get(name, ())}:
            add(row, other)
    known = {other for both in found.values() for other in both}
    for row, other in _copies(train, held_out, known):
        add(row, other)
    keys, train_keys = list(held_out.keys()), list(train.keys())
    return [
        Overlap(
            train.corpora[c],
            held_out.corpora[d],
            tuple((keys[k], train_keys[row]) for k, row in sorted(both.items())),
            int((held_out.image_corpus == d).sum()),
            _shared_texts(train, c, held_out, d, both),
        )
        for (c, d), both in sorted(found.items())
    ]


def _names(index: Index) -> Iterator[list[tuple[str, str | int]]]:
    """Yields what each image is known by: its file, its numbers at COCO and Flickr."""
    places = [source.place() for source in index.sources]
    columns = index.image_corpus, index.coco_ids, index.flickr_ids
    rows = zip(*(column.tolist() for column in columns), index.keys(), strict=True)
    for c, coco_id, flickr_id, key in rows:
        names: list[tuple[str, str | int]] = [(places[c], key)]
        if coco_id >= 0:
            names.append(("COCO", coco_id))
        if flickr_id >= 0:
            names.append(("Flickr", flickr_id))
        yield names


def _copies(
    train: Index, held_out: Index, known: set[int]
) -> Iterator[tuple[int, int]]:
    """Yields (row of training, held-out row) of different files of equal content.

    Args:
      train: index of what is trained on.
      held_out: index of what is held out.
      known: held-out rows that need not be found again.
    """
    if all(source.path("") is None for source in train.sources):
        return
    with ThreadPoolExecutor(THREADS) as pool:
        others = _by(pool, _size, held_out, set(range(len(held_out.sizes))) - known)
        sizes = _by(pool, _size, train, range(len(train.sizes)))
        both = sizes.keys() & others.keys()
        rows = [row for size in both for row in sizes[size]]
        other_rows = [row for size in both for row in others[size]]
        other_contents = _by(pool, _content, held_out, other_rows)
        contents = _by(pool, _content, train, rows)
    for content in contents.keys() & other_contents.keys():
        for other in other_contents[content]:
            yield contents[content][0], other


def _by(
    pool: ThreadPoolExecutor,
    what: Callable[[Path], Any],
    index: Index,
    rows: Iterable[int],
) -> dict[Any, list[int]]:
    """Groups rows by a property of their files; generated images have none."""
    out: dict[Any, list[int]] = collections.defaultdict(list)

    def find(row: int) -> tuple[int, Any]:
        source = index.sources[int(index.image_corpus[row])]
        path = source.path(index.key(row))
        return row, None if path is None else what(path)

    for row, value in pool.map(find, sorted(rows)):
        if value is not None:
            out[value].append(row)
    return out


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:  # a missing photo is reported by the policy for bad images
        return None


def _content(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _shared_texts(
    train: Index, c: int, held_out: Index, d: int, both: dict[int, int]
) -> int:
    """Returns how many held-out texts are trained on with the same photo."""
    rows, train_rows = np.array(list(both)), np.array([*both.values()])
    texts = np.flatnonzero(np.isin(train.text_image(c), train_rows))
    seen = {(int(train.text_image(c)[t]), train.caption(c, t)) for t in texts}
    mine = np.flatnonzero(np.isin(held_out.text_image(d), rows))
    return sum(
        (both[int(held_out.text_image(d)[t])], held_out.caption(d, t)) in seen
        for t in mine
    )
