"""Which examples form which batch: a pure function of (seed, step), numpy only.

Texts of one image set (M images that belong together, mostly one) are cut into *groups*
of at most K, so that they share one pass of the CNN. Groups are placed in *buckets*
(canvas, source canvas) by sizes known beforehand, batches are drawn inside a bucket,
and the batches of all buckets are shuffled together. Nothing is read, nothing is
saved: every process computes the same plan, a run resumes at any step at once, and a
change of host count changes no batch.

What holds for every training plan:

* An epoch shows every text of a corpus of weight 1 exactly once. n texts of an image
  set are shuffled and cut into ceil(n / K) groups of balanced size (5 texts with K = 4
  are 3 + 2), missing slots are -1.
* The number of groups of each bucket is the same in every epoch, hence
  `steps_per_epoch` is constant and step -> (epoch, index) is one divmod.
* Holes are spread: of a bucket with N groups and n = ceil(N / G) batches, batch j
  takes groups j*N//n to (j+1)*N//n, instead of one lonely group in a last batch that
  would get the full learning rate.

Pixel-BERT draws pairs at random; groups spend one CNN pass on all captions of a photo.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from pixel_bert_jax.data import geometry
from pixel_bert_jax.data.plan.layout import Layout, offsets_of
from pixel_bert_jax.data.plan.permutations import permutation, shuffle_segments, stream
from pixel_bert_jax.data.plan.types import (
    NO_EXAMPLE,
    BucketStatistics,
    Corpus,
    PlanBatch,
    Statistics,
    check_corpora,
    check_integer,
)

FORMAT = 1
"""Raised whenever the same arguments would give another order; in the fingerprint."""

# What a random stream is for: the second number of its seed.
_TEXTS, _GROUPS, _BATCHES, _SUBSET = range(4)  # `partners` has the next two

_CACHED_EPOCHS = 2  # readers that prefetch across an epoch's end need both sides


@dataclasses.dataclass(frozen=True)
class _Pass:
    """One showing of a corpus in an epoch: all of it, or `share` of its groups."""

    corpus: int
    occurrence: int
    share: Fraction
    first_group: int  # of this pass, in the numbering of an epoch's groups
    first_text: int  # of this pass, in an epoch's array of texts


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """What a step of one epoch is looked up in: N groups in the order of use."""

    texts: np.ndarray  # int32 [N, K] text rows or -1, bucket after bucket
    image_sets: np.ndarray  # int32 [N]
    passes: np.ndarray  # int32 [N]
    batches: np.ndarray  # int64, shuffled batch numbers


class BasePlan:
    """Groups, buckets and batches; the public plans say which are shown and when."""

    def __init__(
        self,
        corpora: Sequence[Corpus],
        sizes: np.ndarray,
        *,
        seed: int,
        groups: int,
        texts_per_group: int,
        short: int,
        long: int,
        canvases: Sequence[geometry.Size],
        source_canvases: Sequence[int],
        minimum: int = geometry.MINIMUM_SIDE,
    ):
        """Builds the parts that no epoch changes.

        Args:
          corpora: at most 256; all with the same M.
          sizes: int32 [I, 2] (height, width) of every image of the global table.
          seed: fixes the order together with all other arguments.
          groups: G, groups of a global batch.
          texts_per_group: K.
          short: wanted shorter side of a resized image, pixels.
          long: its greatest longer side, pixels.
          canvases: (height, width) each.
          source_canvases: sides of square source canvases, pixels.
          minimum: least side of a resized image, pixels.

        Raises:
          InputError: an argument or a corpus is not as described, or no text is left.
        """
        self.seed = check_integer("seed", seed, 0)
        self.groups = check_integer("groups", groups, 1)
        self.texts_per_group = check_integer("texts_per_group", texts_per_group, 1)
        self.short, self.long, self.minimum = int(short), int(long), int(minimum)
        self.canvases = tuple((int(h), int(w)) for h, w in canvases)
        self.source_canvases = tuple(int(side) for side in source_canvases)
        self.corpora = tuple(corpora)
        self.sizes = np.asarray(sizes)
        check_corpora(self.corpora, len(self.sizes))
        self.images_per_group = int(self.corpora[0].set_images.shape[1])
        self._layout = Layout(
            self.corpora,
            self.sizes,
            texts_per_group=self.texts_per_group,
            short=self.short,
            long=self.long,
            minimum=self.minimum,
            canvases=self.canvases,
            source_canvases=self.source_canvases,
        )
        self.buckets = self._layout.buckets
        self._build_passes()
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._lock = threading.Lock()

    def _weight(self, corpus: Corpus) -> Fraction:
        """Returns how often an epoch shows each text of a corpus."""
        raise NotImplementedError

    def _build_passes(self) -> None:
        """Lays out the showings of an epoch and counts its batches.

        Weight 2.5 is two full passes and half a pass. A partial pass of share s takes
        ceil(s N) of the N groups that a corpus has in a bucket, so the counts of every
        bucket are constant. They are a window over one seeded cyclic order of those
        groups which moves on by its own length every epoch, and the texts of a partial
        pass are cut into groups once for all epochs. So all texts are shown in turn:
        none twice before each of its bucket was shown once. (ceil, not round: a bucket
        with few groups must not be left out for good.)
        """
        layout, passes = self._layout, []
        corpus_groups = np.diff(layout.corpus_group).tolist()
        first_group = first_text = 0
        for c, corpus in enumerate(self.corpora):
            weight = self._weight(corpus)
            for occurrence in range(math.ceil(weight)):
                share = min(weight - occurrence, Fraction(1))
                passes.append(_Pass(c, occurrence, share, first_group, first_text))
                first_group += corpus_groups[c]
                first_text += len(corpus.text_set)
        self._passes, self._epoch_texts = passes, first_text
        self._pass_corpus = np.array([p.corpus for p in passes], np.int32)
        self._pass_id = np.array(
            [p.corpus + 256 * p.occurrence for p in passes], np.uint32
        )
        # An epoch numbers groups and texts by pass, the layout by corpus; to go over:
        self._pass_group = np.array([p.first_group for p in passes])
        self._to_layout_group = (
            layout.corpus_group[self._pass_corpus] - self._pass_group
        )
        self._to_epoch_text = (
            np.array([p.first_text for p in passes])
            - layout.corpus_text[self._pass_corpus]
        )
        self._bucket_sizes = [
            sum(_quota(p, len(groups[p.corpus])) for p in passes)
            for groups in layout.bucket_groups
        ]
        self._bucket_batches = [-(-size // self.groups) for size in self._bucket_sizes]
        self._group_offsets = offsets_of(self._bucket_sizes)
        self._batch_offsets = offsets_of(self._bucket_batches)
        self._num_batches = int(self._batch_offsets[-1])

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything that fixes the order of the examples."""
        digest = hashlib.sha256()
        settings = (type(self).__name__, FORMAT, self.seed, self.groups)
        settings += (self.texts_per_group, self.short, self.long, self.minimum)
        settings += (self.canvases, self.source_canvases)
        digest.update(repr(settings).encode())
        arrays = [self.sizes]
        for corpus in self.corpora:
            digest.update(repr((corpus.name, str(self._weight(corpus)))).encode())
            arrays += [corpus.set_images, corpus.text_set, corpus.image_ids]
        for array in arrays:
            digest.update(repr(array.shape).encode())
            for begin in range(0, len(array), 1 << 18):  # little memory if mapped
                digest.update(array[begin : begin + (1 << 18)].astype("<i8").tobytes())
        return digest.hexdigest()

    def statistics(self, epoch: int = 0) -> Statistics:
        """Returns the counts of an epoch (they differ only under partial weights)."""
        layout = self._layout
        sizes = self.sizes[layout.set_images]
        targets = geometry.target_sizes(sizes, self.short, self.long, self.minimum)
        set_area = targets.astype(np.int64).prod(axis=2).sum(axis=1)
        lengths = np.diff(layout.group_text)
        texts, groups = np.zeros((2, len(self.corpora)), np.int64)
        buckets = []
        for b, bucket in enumerate(self.buckets):
            shown, resized_area = 0, 0
            for p in self._passes:
                chosen = self._select(p, b, epoch) + layout.corpus_group[p.corpus]
                count = int(lengths[chosen].sum())
                shown += count
                texts[p.corpus] += count
                groups[p.corpus] += len(chosen)
                resized_area += int(set_area[layout.group_set[chosen]].sum())
            size, batches = self._bucket_sizes[b], self._bucket_batches[b]
            area = math.prod(bucket.canvas) * size * self.images_per_group
            buckets.append(
                BucketStatistics(bucket, size, batches, shown, area, resized_area)
            )
        names = [corpus.name for corpus in self.corpora]
        slot_use = texts / (groups * self.texts_per_group)
        return Statistics(
            buckets=tuple(buckets),
            texts_per_group=self.texts_per_group,
            groups_per_batch=self.groups,
            corpus_slot_use=dict(zip(names, slot_use.tolist(), strict=True)),
        )

    def _select(self, p: _Pass, bucket: int, epoch: int) -> np.ndarray:
        """Groups of a bucket that a pass shows in an epoch, from the corpus's first."""
        groups = self._layout.bucket_groups[bucket][p.corpus]
        quota = _quota(p, len(groups))
        if quota == len(groups):
            return groups
        bits = stream(self.seed, _SUBSET, p.corpus, bucket)
        window = (epoch * quota + np.arange(quota)) % len(groups)
        return groups[permutation(bits, len(groups))[window]]

    def _epoch(self, epoch: int) -> _Epoch:
        """Returns the arrays of an epoch, built once while it is in use."""
        with self._lock:
            if epoch not in self._epochs:
                if len(self._epochs) == _CACHED_EPOCHS:  # first let the oldest go
                    self._epochs.popitem(last=False)
                self._epochs[epoch] = self._build_epoch(epoch)
            self._epochs.move_to_end(epoch)
            return self._epochs[epoch]

    def _build_epoch(self, epoch: int) -> _Epoch:
        layout = self._layout
        arranged = np.empty(self._epoch_texts, np.int32)
        for p in self._passes:
            # A partial pass goes through all its groups before it cuts them anew.
            turn = epoch if p.share == 1 else 0
            bits = stream(self.seed, _TEXTS, p.corpus, p.occurrence, turn)
            offsets = layout.set_offsets[p.corpus]
            rows = arranged[p.first_text : p.first_text + int(offsets[-1])]
            shuffle_segments(bits, offsets, rows)
            arrangement = layout.arrangements[p.corpus]
            if arrangement is not None:
                rows[:] = arrangement[rows]
        # In order of use, so that a step reads neighbours: 3 to 5 times as quick.
        total = int(self._group_offsets[-1])
        texts = np.empty((total, self.texts_per_group), np.int32)
        image_sets, passes = np.empty((2, total), np.int32)
        for b, (begin, end) in enumerate(itertools.pairwise(self._group_offsets)):
            selected = np.concatenate(
                [self._select(p, b, epoch) + p.first_group for p in self._passes]
            )
            bits = stream(self.seed, _GROUPS, b, epoch)
            chosen = selected[permutation(bits, len(selected))]
            showing = self._pass_group.searchsorted(chosen, side="right") - 1
            group = chosen + self._to_layout_group[showing]
            start, end_text = layout.group_text[group], layout.group_text[group + 1]
            places = start[:, None] + np.arange(self.texts_per_group)
            real = places < end_text[:, None]
            places += self._to_epoch_text[showing, None]
            # What is not real reads some other text, or beyond the end: clipped.
            texts[begin:end] = np.where(real, arranged.take(places, mode="clip"), -1)
            image_sets[begin:end], passes[begin:end] = layout.group_set[group], showing
        bits = stream(self.seed, _BATCHES, epoch)
        return _Epoch(texts, image_sets, passes, permutation(bits, self._num_batches))

    def _batch(self, epoch: int, index: int) -> tuple[PlanBatch, np.ndarray]:
        """Returns a batch and its groups' image sets, numbered over all corpora."""
        arrays = self._epoch(epoch)
        number = int(arrays.batches[index])
        b = int(self._batch_offsets.searchsorted(number, side="right")) - 1
        j, n = number - int(self._batch_offsets[b]), self._bucket_batches[b]
        first, size = int(self._group_offsets[b]), self._bucket_sizes[b]
        chosen = slice(first + j * size // n, first + (j + 1) * size // n)
        rows, image_sets = arrays.texts[chosen], arrays.image_sets[chosen]
        showing, count = arrays.passes[chosen], len(image_sets)

        corpus = np.full(self.groups, -1, np.int32)
        corpus[:count] = self._pass_corpus[showing]
        images = np.full((self.groups, self.images_per_group), -1, np.int64)
        images[:count] = self._layout.set_images[image_sets]
        texts = np.full((self.groups, self.texts_per_group), -1, np.int64)
        texts[:count] = rows
        example_id = np.full((*texts.shape, 2), NO_EXAMPLE, np.uint32)
        high = self._pass_id[showing]
        example_id[:count, :, 0] = np.where(rows >= 0, high[:, None], NO_EXAMPLE)
        example_id[:count, :, 1] = rows.view(np.uint32)  # -1 becomes NO_EXAMPLE
        return PlanBatch(self.buckets[b], corpus, images, texts, example_id), image_sets


def _quota(p: _Pass, groups: int) -> int:
    """Returns how many of a bucket's groups a pass shows in an epoch."""
    return math.ceil(p.share * groups)
