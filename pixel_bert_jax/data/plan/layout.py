"""The parts of a data plan that no epoch changes: groups of texts and their buckets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pixel_bert_jax.data import geometry
from pixel_bert_jax.data.plan.types import Bucket, Corpus
from pixel_bert_jax.types import InputError

_CHUNK = 1 << 18  # texts looked at together, so that a mapped array takes little memory


class Layout:
    """Numbers image sets, groups and texts of all corpora, and sorts them in buckets.

    Attributes:
      set_images: int [U, M] rows of the image table.
      set_bucket: int16 [U] bucket of each image set, -1 for one without texts.
      group_set: int32 [number of groups].
      group_text: int64 [number of groups + 1]: group g holds the texts
        group_text[g]:group_text[g + 1], counted in the order "arranged by image set".
      corpus_set, corpus_group, corpus_text: int64 [corpora + 1], where each corpus
        begins in these numberings.
      set_offsets: a corpus: int64 [U + 1], where its image sets begin in its texts.
      arrangements: a corpus: int32 [T] text rows arranged by image set, or None if they
        are so already.
      buckets: those that occur, in the order of the tables of canvases.
      bucket_groups: [bucket][corpus] int32, groups counted from the corpus's first.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        sizes: np.ndarray,
        *,
        texts_per_group: int,
        short: int,
        long: int,
        minimum: int,
        canvases: Sequence[geometry.Size],
        source_canvases: Sequence[int],
    ):
        self.set_images = np.concatenate([c.set_images for c in corpora])
        self.corpus_set = offsets_of([len(c.set_images) for c in corpora])
        self.corpus_text = offsets_of([len(c.text_set) for c in corpora])
        self._cut(corpora, texts_per_group)
        used = np.zeros(len(self.set_images), bool)
        used[self.group_set] = True
        original = _original_sizes(sizes, self.set_images[used])
        targets = geometry.target_sizes(original, short, long, minimum)
        canvas = geometry.choose_canvas(targets, canvases)
        source = geometry.choose_source(original, source_canvases)
        self._place(used, canvas, source, canvases, source_canvases)

    def _cut(self, corpora: Sequence[Corpus], texts_per_group: int) -> None:
        """Cuts every image set's texts into the fewest groups, of balanced size."""
        self.arrangements, self.set_offsets = [], []
        image_sets, starts = [], []
        for c, corpus in enumerate(corpora):
            arrangement, offsets = _arrange(corpus.text_set, len(corpus.set_images))
            counts = np.diff(offsets)
            pieces = -(-counts // texts_per_group)
            image_set = np.repeat(np.arange(len(counts), dtype=np.int32), pieces)
            piece = np.arange(len(image_set)) - np.repeat(
                np.cumsum(pieces) - pieces, pieces
            )
            start = offsets[image_set] + piece * counts[image_set] // pieces[image_set]
            image_sets.append((image_set + self.corpus_set[c]).astype(np.int32))
            starts.append(start + self.corpus_text[c])
            self.arrangements.append(arrangement)
            self.set_offsets.append(offsets)
        self.corpus_group = offsets_of([len(image_set) for image_set in image_sets])
        self.group_set = np.concatenate(image_sets)
        self.group_text = np.concatenate([*starts, self.corpus_text[-1:]])

    def _place(
        self,
        used: np.ndarray,
        canvas: np.ndarray,
        source: np.ndarray,
        canvases: Sequence[geometry.Size],
        source_canvases: Sequence[int],
    ) -> None:
        """Sorts groups into buckets by the canvases of the image sets in use."""
        codes = canvas * len(source_canvases) + source
        codes, index = np.unique(codes, return_inverse=True)
        pairs = [divmod(code, len(source_canvases)) for code in codes.tolist()]
        self.buckets = tuple(
            Bucket(canvases[canvas], source_canvases[source])
            for canvas, source in pairs
        )
        self.set_bucket = np.full(len(used), -1, np.int16)
        self.set_bucket[used] = index
        group_bucket = self.set_bucket[self.group_set]
        self.bucket_groups = [
            [
                np.flatnonzero(group_bucket[begin:end] == b).astype(np.int32)
                for begin, end in itertools.pairwise(self.corpus_group.tolist())
            ]
            for b in range(len(self.buckets))
        ]


def offsets_of(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns where each of N joined parts begins, and the end; int64 [N + 1]."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _arrange(
    text_set: np.ndarray, image_sets: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns text rows arranged by image set (None: they are) and sets' offsets."""
    counts, ascending, previous = np.zeros(image_sets, np.int64), True, 0
    for begin in range(0, len(text_set), _CHUNK):
        part = np.asarray(text_set[begin : begin + _CHUNK])
        if part.min() < 0 or part.max() >= image_sets:
            raise InputError(
                f"Expected image sets 0 to {image_sets - 1} in `text_set`, received "
                f"{part.min()} to {part.max()}."
            )
        counts += np.bincount(part, minlength=image_sets)
        ascending &= bool(previous <= part[0] and (part[1:] >= part[:-1]).all())
        previous = part[-1]
    if ascending:
        return None, offsets_of(counts)
    return np.argsort(text_set, kind="stable").astype(np.int32), offsets_of(counts)


def _original_sizes(sizes: np.ndarray, set_images: np.ndarray) -> np.ndarray:
    """Returns the sizes [U, M, 2] of the images in use, none of them empty."""
    original = sizes[set_images]
    empty = (original <= 0).any(axis=2)
    if empty.any():
        row = int(set_images[empty][0])
        height, width = sizes[row].tolist()
        raise InputError(
            f"Expected images of at least 1x1 pixels, received height {height}, width "
            f"{width} in row {row} of the image table."
        )
    return original
