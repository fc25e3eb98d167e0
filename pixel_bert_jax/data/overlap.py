"""Photos that are trained on and held out: found by file and by COCO's number.

A metric of photos that the model has seen says little about others. Visual Genome has
52,000 photos of COCO, some of COCO's held-out splits; lists overlap; a file without
splits is its own held-out data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pixel_bert_jax.data.index import Index

SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The photos of one held-out corpus that one corpus trains on.

    Attributes:
      train: name of the corpus that is trained on.
      held_out: name of the one that is held out.
      photos: keys of the photos in the latter, in its order.
      of: number of all its photos.
    """

    train: str
    held_out: str
    photos: tuple[str, ...]
    of: int

    def __str__(self) -> str:
        named = ", ".join(self.photos[:SHOWN])
        more = ", ..." if len(self.photos) > SHOWN else ""
        return (
            f"{len(self.photos):,} of the {self.of:,} held-out photos of corpus "
            f"{self.held_out!r} are also trained on, in corpus {self.train!r} "
            f"({named}{more}): its metrics say little about new photos"
        )


def overlaps(train: Index, held_out: Index) -> list[Overlap]:
    """Returns what of the held-out photos is trained on, one entry per two corpora.

    Photos are the same if they are the same file, or the same number of COCO. Generated
    images of different splits never are.
    """
    rows: dict[str | int, list[int]] = {}
    for row, names in enumerate(_names(held_out)):
        for name in names:
            rows.setdefault(name, []).append(row)
    found: dict[tuple[int, int], set[int]] = {}
    for row, names in enumerate(_names(train)):
        for other in {other for name in names for other in rows.get(name, ())}:
            pair = int(train.image_corpus[row]), int(held_out.image_corpus[other])
            found.setdefault(pair, set()).add(other)
    keys = list(held_out.keys())
    return [
        Overlap(
            train.corpora[c],
            held_out.corpora[d],
            tuple(keys[row] for row in sorted(both)),
            int((held_out.image_corpus == d).sum()),
        )
        for (c, d), both in sorted(found.items())
    ]


def _names(index: Index) -> Iterator[list[str | int]]:
    """Yields what each image is known by: its file, and COCO's number if it has one."""
    folders = [source.path("") for source in index.sources]
    resolved = [None if folder is None else folder.resolve() for folder in folders]
    corpora, coco_ids = index.image_corpus.tolist(), index.coco_ids.tolist()
    for c, coco_id, key in zip(corpora, coco_ids, index.keys(), strict=True):
        names: list[str | int] = []
        if resolved[c] is not None:
            names.append(f"{resolved[c]}/{key}")
        if coco_id >= 0:
            names.append(coco_id)
        yield names
