"""Which examples form which batch: a pure function of (seed, step), numpy only.

Texts of one unit (a photo, or M photos that belong together) are cut into *groups* of
at most K, so that they share one pass of the CNN. Groups are placed in *buckets*
(canvas, source canvas) by sizes known beforehand, batches are drawn inside a bucket,
and the batches of all buckets are shuffled together. Nothing is read, nothing is
saved: every process computes the same plan, a run resumes at any step at once, and a
change of host count changes no batch.

What holds for every training plan:

* An epoch shows every text of a corpus of weight 1 exactly once. n texts of a unit
  are shuffled and cut into ceil(n / K) groups of balanced size (5 texts with K = 4
  are 3 + 2), missing slots are -1.
* The number of groups of each bucket is the same in every epoch, hence
  `steps_per_epoch` is constant and step -> (epoch, index) is one divmod.
* Holes are spread: of a bucket with N groups and n = ceil(N / G) batches, batch j
  takes groups j*N//n to (j+1)*N//n, instead of one lonely group in a last batch that
  would get the full learning rate.

Pixel-BERT (arXiv 2004.00849) draws pairs at random; groups are this project's way to
spend one CNN pass on all captions of a photo.
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
from pixel_bert_jax.data.partners import choose_partners
from pixel_bert_jax.data.permutations import permutation, shuffle_segments, stream
from pixel_bert_jax.types import InputError

FORMAT = 1
"""Raised whenever the same arguments would give another order; in the fingerprint."""

HOLE = np.uint32(0xFFFFFFFF)
"""Both words of the uid of an empty text slot."""

# What a random stream is for: the second number of its seed.
_TEXTS, _GROUPS, _BATCHES, _SUBSET, _NEGATIVES, _OTHERS = range(6)

_CACHED_EPOCHS = 2  # readers that prefetch across an epoch's end need both sides


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The texts and units of one corpus, as the plan sees them.

    Attributes:
      name: for messages and figures.
      weight: times each text is shown in a training epoch; 0.5 shows half of them.
      unit_images: int [U, M] rows of the global image table.
      text_unit: int [T] unit of each text, in any order; may be memory-mapped.
      pictures: int [U] picture of each unit (of its image 0): two units with one
        picture are never each other's negatives.
    """

    name: str
    weight: float
    unit_images: np.ndarray
    text_unit: np.ndarray
    pictures: np.ndarray


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Static shape of a batch: canvas (height, width), side of the source canvas."""

    canvas: geometry.Size
    source: int


@dataclasses.dataclass(frozen=True)
class PlanBatch:
    """One global batch of G groups; -1 marks what is missing.

    Attributes:
      bucket: shape of the batch.
      corpus: int32 [G].
      images: int64 [G, M] rows of the global image table.
      texts: int64 [G, K] rows of the text table of the group's corpus.
      uid: uint32 [G, K, 2], (corpus + 256 * occurrence in the epoch, text row), or
        `HOLE` twice. Every random draw of an example is keyed by it.
      negatives: int64 [G, K], evaluation only: row of a text of the same corpus that
        belongs to another picture.
      other_images: int64 [G, M], evaluation only: images of another picture's unit
        in the same corpus and bucket.
    """

    bucket: Bucket
    corpus: np.ndarray
    images: np.ndarray
    texts: np.ndarray
    uid: np.ndarray
    negatives: np.ndarray | None = None
    other_images: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class BucketStatistics:
    """Counts of one bucket; `waste` is canvas area / resized area - 1."""

    bucket: Bucket
    groups: int
    batches: int
    waste: float


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Counts of one epoch.

    Attributes:
      buckets: one entry a bucket.
      groups, batches: their sums.
      texts: texts shown, and by corpus name in `corpus_texts`.
      slot_use: texts / (groups * K), and by corpus name in `corpus_slot_use`.
      hole_share: share of the batches' group rows that are empty.
      waste: canvas area / resized area - 1 over all image rows but holes.
    """

    buckets: tuple[BucketStatistics, ...]
    groups: int
    batches: int
    texts: int
    slot_use: float
    corpus_texts: dict[str, int]
    corpus_slot_use: dict[str, float]
    hole_share: float
    waste: float


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
    """What a step of one epoch is looked up in."""

    texts: np.ndarray  # int32, text rows of all passes, arranged by unit
    groups: list[np.ndarray]  # a bucket: int32 shuffled groups
    batches: np.ndarray  # int64, shuffled batch numbers


class _Plan:
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
          short, long, minimum: see `geometry.target_sizes`; pixels.
          canvases: (height, width) each.
          source_canvases: sides of square source canvases, pixels.

        Raises:
          InputError: an argument or a corpus is not as described, or no text is left.
        """
        for name, value, least in (
            ("seed", seed, 0),
            ("groups", groups, 1),
            ("texts_per_group", texts_per_group, 1),
        ):
            if value != int(value) or value < least:
                raise InputError(
                    f"Expected an integer of at least {least} for `{name}`, "
                    f"received {value!r}."
                )
        self.seed, self.groups, self.texts_per_group = seed, groups, texts_per_group
        self.short, self.long, self.minimum = short, long, minimum
        self.canvases = tuple((int(h), int(w)) for h, w in canvases)
        self.source_canvases = tuple(int(side) for side in source_canvases)
        self.corpora = tuple(corpora)
        self.sizes = np.asarray(sizes)
        _check_corpora(self.corpora, len(self.sizes))
        self.images_per_group = self.corpora[0].unit_images.shape[1]

        self._unit_images = np.concatenate([c.unit_images for c in self.corpora])
        self._build_groups()
        self._build_buckets()
        self._build_passes()
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._lock = threading.Lock()

    def _weight(self, corpus: Corpus) -> Fraction:
        """Returns how often an epoch shows each text of a corpus."""
        raise NotImplementedError

    def _build_groups(self) -> None:
        """Cuts every unit's texts into groups: ranges of the texts arranged by unit.

        Units, groups and texts of all corpora are numbered through; group g holds the
        arranged texts `_group_text[g]` to `_group_text[g + 1]`.
        """
        self._arrangements = []  # a corpus: text rows arranged by unit, None: they are
        self._unit_offsets = []  # a corpus: int64 [U + 1] into its arranged texts
        units, starts, first_unit, first_text = [], [], 0, 0
        group_counts = []
        for corpus in self.corpora:
            arrangement, offsets = _arrange(corpus.text_unit, len(corpus.unit_images))
            counts = np.diff(offsets)
            pieces = -(-counts // self.texts_per_group)
            unit = np.repeat(np.arange(len(counts), dtype=np.int32), pieces)
            piece = np.arange(len(unit)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
            start = offsets[unit] + piece * counts[unit] // pieces[unit]
            units.append((unit + first_unit).astype(np.int32))
            starts.append(start + first_text)
            group_counts.append(len(unit))
            first_unit += len(counts)
            first_text += len(corpus.text_unit)
            self._arrangements.append(arrangement)
            self._unit_offsets.append(offsets)
        self._group_unit = np.concatenate(units)
        self._group_text = np.concatenate([*starts, [first_text]])
        self._corpus_group = _offsets(group_counts)
        self._corpus_text = _offsets([len(c.text_unit) for c in self.corpora])

    def _build_buckets(self) -> None:
        """Assigns every unit with texts to its bucket and lists each bucket's groups."""
        used = np.zeros(len(self._unit_images), bool)
        used[self._group_unit] = True
        original = self.sizes[self._unit_images[used]]  # [U, M, 2]
        if not original.min(initial=1) > 0:
            row = self._unit_images[used][(original <= 0).any(axis=2)][0]
            raise InputError(
                f"Expected images of at least 1x1 pixels, received height, width "
                f"{self.sizes[row].tolist()} in row {row} of the image table."
            )
        targets = geometry.target_sizes(original, self.short, self.long, self.minimum)
        canvas = geometry.choose_canvas(targets, self.canvases)
        source = geometry.choose_source(original, self.source_canvases)
        codes, index = np.unique(
            canvas * len(self.source_canvases) + source, return_inverse=True
        )
        self.buckets = tuple(
            Bucket(self.canvases[canvas], self.source_canvases[source])
            for canvas, source in (divmod(c, len(self.source_canvases)) for c in codes)
        )
        self._unit_bucket = np.full(len(used), -1, np.int16)
        self._unit_bucket[used] = index
        group_bucket = self._unit_bucket[self._group_unit]
        # [bucket][corpus]: groups counted from the corpus's first one
        self._bucket_groups = [
            [
                np.flatnonzero(group_bucket[begin:end] == b).astype(np.int32)
                for begin, end in itertools.pairwise(self._corpus_group)
            ]
            for b in range(len(self.buckets))
        ]

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
        self._passes: list[_Pass] = []
        first_group = first_text = 0
        for c, corpus in enumerate(self.corpora):
            weight = self._weight(corpus)
            for occurrence in range(math.ceil(weight)):
                share = min(weight - occurrence, Fraction(1))
                self._passes.append(
                    _Pass(c, occurrence, share, first_group, first_text)
                )
                first_group += int(self._corpus_group[c + 1] - self._corpus_group[c])
                first_text += len(corpus.text_unit)
        self._pass_group = np.array([p.first_group for p in self._passes])
        # To be added to a pass's group numbers to number groups, or texts, by corpus.
        self._pass_to_group = np.array(
            [self._corpus_group[p.corpus] - p.first_group for p in self._passes]
        )
        self._pass_to_text = np.array(
            [p.first_text - self._corpus_text[p.corpus] for p in self._passes]
        )
        self._pass_corpus = np.array([p.corpus for p in self._passes], np.int32)
        self._pass_uid = np.array(
            [p.corpus + 256 * p.occurrence for p in self._passes], np.uint32
        )
        self._epoch_texts = first_text
        self._bucket_sizes = [
            sum(_quota(p, len(lists[p.corpus])) for p in self._passes)
            for lists in self._bucket_groups
        ]
        self._bucket_batches = [-(-size // self.groups) for size in self._bucket_sizes]
        self._batch_offsets = _offsets(self._bucket_batches)
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
            arrays += [corpus.unit_images, corpus.text_unit, corpus.pictures]
        for array in arrays:
            digest.update(repr(array.shape).encode())
            for begin in range(0, len(array), 1 << 18):  # little memory if mapped
                digest.update(array[begin : begin + (1 << 18)].astype("<i8").tobytes())
        return digest.hexdigest()

    def statistics(self, epoch: int = 0) -> Statistics:
        """Returns the counts of an epoch (they differ only under partial weights)."""
        unit_area = (
            geometry.target_sizes(
                self.sizes[self._unit_images], self.short, self.long, self.minimum
            )
            .astype(np.int64)
            .prod(axis=2)
            .sum(axis=1)
        )
        lengths = np.diff(self._group_text)
        buckets, canvas_area, resized_area = [], 0, 0
        texts = np.zeros(len(self.corpora), np.int64)
        rows = np.zeros(len(self.corpora), np.int64)
        for b, bucket in enumerate(self.buckets):
            resized = 0
            for p in self._passes:
                chosen = self._select(p, b, epoch) + self._corpus_group[p.corpus]
                resized += int(unit_area[self._group_unit[chosen]].sum())
                texts[p.corpus] += lengths[chosen].sum()
                rows[p.corpus] += len(chosen)
            size = self._bucket_sizes[b]
            area = math.prod(bucket.canvas) * size * self.images_per_group
            buckets.append(
                BucketStatistics(
                    bucket, size, self._bucket_batches[b], area / resized - 1
                )
            )
            canvas_area, resized_area = canvas_area + area, resized_area + resized
        slots = np.maximum(rows * self.texts_per_group, 1)
        names = [corpus.name for corpus in self.corpora]
        return Statistics(
            buckets=tuple(buckets),
            groups=int(rows.sum()),
            batches=self._num_batches,
            texts=int(texts.sum()),
            slot_use=float(texts.sum() / (rows.sum() * self.texts_per_group)),
            corpus_texts=dict(zip(names, texts.tolist(), strict=True)),
            corpus_slot_use=dict(zip(names, (texts / slots).tolist(), strict=True)),
            hole_share=1 - int(rows.sum()) / (self._num_batches * self.groups),
            waste=canvas_area / resized_area - 1,
        )

    def _select(self, p: _Pass, bucket: int, epoch: int) -> np.ndarray:
        """Groups of a bucket that a pass shows in an epoch, from the corpus's first."""
        groups = self._bucket_groups[bucket][p.corpus]
        quota = _quota(p, len(groups))
        if quota == len(groups):
            return groups
        bits = stream(self.seed, _SUBSET, p.corpus, bucket)
        window = (epoch * quota + np.arange(quota)) % len(groups)
        return groups[permutation(bits, len(groups))[window]]

    def _epoch(self, epoch: int) -> _Epoch:
        """Returns the arrays of an epoch, built once while it is in use."""
        with self._lock:
            if epoch in self._epochs:
                self._epochs.move_to_end(epoch)
            else:
                while len(self._epochs) >= _CACHED_EPOCHS:
                    self._epochs.popitem(last=False)
                self._epochs[epoch] = self._build_epoch(epoch)
            return self._epochs[epoch]

    def _build_epoch(self, epoch: int) -> _Epoch:
        texts = np.empty(self._epoch_texts, np.int32)
        for p in self._passes:
            # A partial pass goes through all its groups before it cuts them anew.
            turn = epoch if p.share == 1 else 0
            bits = stream(self.seed, _TEXTS, p.corpus, p.occurrence, turn)
            offsets = self._unit_offsets[p.corpus]
            rows = texts[p.first_text : p.first_text + int(offsets[-1])]
            shuffle_segments(bits, offsets, rows)
            arrangement = self._arrangements[p.corpus]
            if arrangement is not None:
                rows[:] = arrangement[rows]
        groups = []
        for b, size in enumerate(self._bucket_sizes):
            selected = np.concatenate(
                [self._select(p, b, epoch) + p.first_group for p in self._passes]
            )
            order = permutation(stream(self.seed, _GROUPS, b, epoch), size)
            groups.append(selected[order].astype(np.int32))
        bits = stream(self.seed, _BATCHES, epoch)
        return _Epoch(texts, groups, permutation(bits, self._num_batches))

    def _batch(self, epoch: int, index: int) -> tuple[PlanBatch, np.ndarray]:
        """Returns a batch and its groups' units, numbered over all corpora."""
        arrays = self._epoch(epoch)
        number = int(arrays.batches[index])
        b = int(np.searchsorted(self._batch_offsets, number, side="right")) - 1
        j, n = number - int(self._batch_offsets[b]), self._bucket_batches[b]
        size = self._bucket_sizes[b]
        chosen = arrays.groups[b][j * size // n : (j + 1) * size // n]

        showing = np.searchsorted(self._pass_group, chosen, side="right") - 1
        group = chosen + self._pass_to_group[showing]
        unit = self._group_unit[group]
        start = self._group_text[group]
        length = self._group_text[group + 1] - start
        start += self._pass_to_text[showing]

        slot = np.arange(self.texts_per_group)
        real = slot < length[:, None]
        rows = arrays.texts[np.where(real, start[:, None] + slot, 0)]
        count, shape = len(chosen), (self.groups, self.texts_per_group)
        corpus = np.full(self.groups, -1, np.int32)
        corpus[:count] = self._pass_corpus[showing]
        images = np.full((self.groups, self.images_per_group), -1, np.int64)
        images[:count] = self._unit_images[unit]
        texts = np.full(shape, -1, np.int64)
        texts[:count] = np.where(real, rows, -1)
        uid = np.full((*shape, 2), HOLE, np.uint32)
        uid[:count, :, 0] = np.where(real, self._pass_uid[showing][:, None], HOLE)
        uid[:count, :, 1] = texts[:count].astype(np.uint32)  # -1 becomes HOLE
        return PlanBatch(self.buckets[b], corpus, images, texts, uid), unit


class TrainPlan(_Plan):
    """An endless stream of training batches; see the module's rules.

    Raises InputError, beside the reasons of `_Plan`, if the data do not fill a batch.
    """

    def __init__(self, corpora: Sequence[Corpus], sizes: np.ndarray, **settings):
        super().__init__(corpora, sizes, **settings)
        available = sum(self._bucket_sizes)
        if available < self.groups:
            raise InputError(
                f"Expected data for at least one batch of groups={self.groups}, "
                f"received {available} groups of up to {self.texts_per_group} texts. "
                f"Nearest valid: groups={available}, or more data."
            )
        self.steps_per_epoch = self._num_batches

    def _weight(self, corpus: Corpus) -> Fraction:
        return Fraction(corpus.weight).limit_denominator(10**6)

    def batch(self, step: int) -> PlanBatch:
        """Returns the global batch of a step; O(1) once its epoch is built.

        Safe to call from several threads. Raises IndexError for a negative step.
        """
        if step < 0:
            raise IndexError(f"Expected a step of at least 0, received {step}.")
        return self._batch(*divmod(step, self.steps_per_epoch))[0]


class EvaluationPlan(_Plan):
    """Every text exactly once in one fixed order, whatever the weights.

    The order is a seeded shuffle, so that a prefix is a fair sample. Negatives and
    other images depend on the seed and the corpora alone, not on G or K, so that no
    figure depends on the batch size.
    """

    def __init__(self, corpora: Sequence[Corpus], sizes: np.ndarray, **settings):
        super().__init__(corpora, sizes, **settings)
        self.num_batches = self._num_batches
        self._negatives = [self._text_partners(c) for c in range(len(self.corpora))]
        self._other_unit = self._unit_partners()

    def _weight(self, corpus: Corpus) -> Fraction:
        return Fraction(1)

    def _text_partners(self, c: int) -> np.ndarray:
        """Returns for each text of a corpus the row of its negative, int64 [T]."""
        corpus = self.corpora[c]
        bits = stream(self.seed, _NEGATIVES, c)
        return choose_partners(bits, np.asarray(corpus.pictures)[corpus.text_unit])

    def _unit_partners(self) -> np.ndarray:
        """Returns for each unit, numbered over corpora, another unit or -1."""
        other = np.full(len(self._unit_images), -1, np.int64)
        first = 0
        for c, corpus in enumerate(self.corpora):
            last = first + len(corpus.unit_images)
            for b, bucket in enumerate(self.buckets):
                units = first + np.flatnonzero(self._unit_bucket[first:last] == b)
                # Keyed by shape: other corpora may bring more buckets before this one.
                bits = stream(self.seed, _OTHERS, c, *bucket.canvas, bucket.source)
                chosen = choose_partners(bits, corpus.pictures[units - first])
                other[units] = np.where(chosen < 0, -1, units[chosen])
            first = last
        return other

    def batch(self, index: int) -> PlanBatch:
        """Returns batch `index` of `num_batches`. Raises IndexError outside."""
        if not 0 <= index < self.num_batches:
            raise IndexError(
                f"Expected a batch from 0 to {self.num_batches - 1}, received {index}."
            )
        batch, unit = self._batch(0, index)
        negatives = np.full_like(batch.texts, -1)
        for c, rows in enumerate(self._negatives):
            real = (batch.corpus == c)[:, None] & (batch.texts >= 0)
            negatives[real] = rows[batch.texts[real]]
        others = np.full_like(batch.images, -1)
        other = self._other_unit[unit]
        others[: len(unit)] = np.where(
            other[:, None] >= 0, self._unit_images[other], -1
        )
        return dataclasses.replace(batch, negatives=negatives, other_images=others)


def _quota(p: _Pass, groups: int) -> int:
    """Returns how many of a bucket's groups a pass shows in an epoch."""
    return math.ceil(p.share * groups)


def _offsets(counts: Sequence[int]) -> np.ndarray:
    """Returns where each of several joined parts begins, and the end; int64 [N + 1]."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _arrange(text_unit: np.ndarray, units: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns text rows arranged by unit (None: they are) and units' offsets."""
    counts, ascending, previous = np.zeros(units, np.int64), True, 0
    for begin in range(0, len(text_unit), 1 << 18):  # little memory if mapped
        part = np.asarray(text_unit[begin : begin + (1 << 18)])
        if part.min() < 0 or part.max() >= units:
            raise InputError(
                f"Expected units 0 to {units - 1} in `text_unit`, received "
                f"{part.min()} to {part.max()}."
            )
        counts += np.bincount(part, minlength=units)
        ascending &= bool(previous <= part[0] and (part[1:] >= part[:-1]).all())
        previous = part[-1]
    if ascending:
        return None, _offsets(counts)
    return np.argsort(text_unit, kind="stable").astype(np.int32), _offsets(counts)


def _check_corpora(corpora: Sequence[Corpus], images: int) -> None:
    """Raises InputError unless every corpus is as `Corpus` describes."""
    if not 1 <= len(corpora) <= 256:  # the low 8 bits of a uid's first word
        raise InputError(f"Expected 1 to 256 corpora, received {len(corpora)}.")
    for corpus in corpora:
        where = f"corpus {corpus.name!r}"
        shape = corpus.unit_images.shape
        if len(shape) != 2 or shape[1] != corpora[0].unit_images.shape[-1]:
            raise InputError(
                f"Expected `unit_images` of shape [U, M] with one M for all corpora, "
                f"received {shape} in {where}, {corpora[0].unit_images.shape} in "
                f"{corpora[0].name!r}."
            )
        if not len(corpus.text_unit) or not shape[0] or not shape[1]:
            raise InputError(
                f"Expected at least one text with an image, received "
                f"{len(corpus.text_unit)} texts and {shape[0]} units in {where}. "
                "Look at its split and filters."
            )
        if len(corpus.text_unit) >= 2**31:
            raise InputError(
                f"Expected fewer than 2^31 texts, received {len(corpus.text_unit)} in "
                f"{where}."
            )
        if len(corpus.pictures) != shape[0]:
            raise InputError(
                f"Expected one picture for each of {shape[0]} units, received "
                f"{len(corpus.pictures)} in {where}."
            )
        low, high = corpus.unit_images.min(), corpus.unit_images.max()
        if low < 0 or high >= images:
            raise InputError(
                f"Expected image rows 0 to {images - 1} in `unit_images`, received "
                f"{low} to {high} in {where}."
            )
        if not (0 < corpus.weight < 2**20):
            raise InputError(
                f"Expected a weight above 0, received {corpus.weight} in {where}. "
                "Leave a corpus out by removing it from `data.corpora`."
            )
