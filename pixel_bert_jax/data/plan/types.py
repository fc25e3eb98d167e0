"""What goes into a data plan, what comes out of it, and the check of the former."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pixel_bert_jax.data.geometry import Size, format_canvas
from pixel_bert_jax.types import InputError

NO_EXAMPLE = np.uint32(0xFFFFFFFF)
"""Both words of the example id of an empty text slot."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The texts and image sets of one corpus, as the plan sees them.

    Attributes:
      name: for messages and figures.
      weight: times each text is shown in a training epoch; 0.5 shows half of them.
      set_images: int [U, M] rows of the global image table.
      text_set: int [T] image set of each text, in any order; may be memory-mapped.
      image_ids: int [U] image of each set (of its image 0): two sets with the same
        image are never each other's negatives.
    """

    name: str
    weight: float
    set_images: np.ndarray
    text_set: np.ndarray
    image_ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Static shape of a batch: canvas (height, width), side of the source canvas."""

    canvas: Size
    source: int


@dataclasses.dataclass(frozen=True)
class PlanBatch:
    """One global batch of G groups; -1 marks what is missing.

    Attributes:
      bucket: shape of the batch.
      corpus: int32 [G].
      images: int64 [G, M] rows of the global image table.
      texts: int64 [G, K] rows of the text table of the group's corpus.
      example_id: uint32 [G, K, 2], (corpus + 256 * occurrence in the epoch, text row),
        or `NO_EXAMPLE` twice. Every random draw of an example is keyed by it.
      negatives: int64 [G, K], evaluation only: row of a text of the same corpus that
        belongs to another image.
      other_images: int64 [G, M], evaluation only: images of another image's image set
        in the same corpus and bucket.
    """

    bucket: Bucket
    corpus: np.ndarray
    images: np.ndarray
    texts: np.ndarray
    example_id: np.ndarray
    negatives: np.ndarray | None = None
    other_images: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class BucketStatistics:
    """Counts of one bucket in an epoch.

    Attributes:
      groups, batches, texts: that it shows.
      canvas_area, resized_area: pixels of their images with and without padding.
    """

    bucket: Bucket
    groups: int
    batches: int
    texts: int
    canvas_area: int
    resized_area: int


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Counts of one epoch.

    Attributes:
      buckets: one entry a bucket.
      texts_per_group, groups_per_batch: K and G.
      corpus_slot_use: texts / (groups * K), by corpus name.
    """

    buckets: tuple[BucketStatistics, ...]
    texts_per_group: int
    groups_per_batch: int
    corpus_slot_use: dict[str, float]

    @property
    def groups(self) -> int:
        """Groups of all buckets."""
        return sum(b.groups for b in self.buckets)

    @property
    def batches(self) -> int:
        """Batches of all buckets: steps an epoch."""
        return sum(b.batches for b in self.buckets)

    @property
    def texts(self) -> int:
        """Texts of all buckets."""
        return sum(b.texts for b in self.buckets)

    @property
    def slot_use(self) -> float:
        """Texts / (groups * K)."""
        return self.texts / (self.groups * self.texts_per_group)

    @property
    def padding_share(self) -> float:
        """Share of the batches' group rows that are empty."""
        return 1 - self.groups / (self.batches * self.groups_per_batch)

    @property
    def waste(self) -> float:
        """Canvas area / resized area - 1 over all image rows but holes."""
        area = sum(b.canvas_area for b in self.buckets)
        return area / sum(b.resized_area for b in self.buckets) - 1

    def table(self) -> str:
        """Formats a line for each bucket.

        "Smallest" and "largest" are groups of a batch: holes are spread.
        """
        rows = [
            "canvas      source     groups  batches  padding  slots used  "
            "smallest  largest"
        ]
        for b in self.buckets:
            slots = b.groups * self.texts_per_group
            rows.append(
                f"{format_canvas(b.bucket.canvas):<10}  {b.bucket.source:>6} "
                f"{b.groups:>10,} {b.batches:>8,} "
                f"{b.canvas_area / b.resized_area - 1:>8.1%} {b.texts / slots:>11.1%} "
                f"{b.groups // b.batches:>9,} {-(-b.groups // b.batches):>8,}"
            )
        return "\n".join(rows)

    def __str__(self) -> str:
        use = ", ".join(f"{n} {u:.1%}" for n, u in self.corpus_slot_use.items())
        return (
            f"{self.texts:,} texts in {self.groups:,} groups and {self.batches:,} "
            f"batches of {len(self.buckets)} shapes an epoch; text slots used {use}; "
            f"empty group rows {self.padding_share:.2%}; padding {self.waste:.1%}"
        )


def check_corpora(corpora: Sequence[Corpus], images: int) -> None:
    """Raises InputError unless every corpus is as `Corpus` describes."""
    if not 1 <= len(corpora) <= 256:  # the low 8 bits of an example id's first word
        raise InputError(f"Expected 1 to 256 corpora, received {len(corpora)}.")
    for corpus in corpora:
        where = f"corpus {corpus.name!r}"
        shape = corpus.set_images.shape
        if len(shape) != 2 or shape[1] != corpora[0].set_images.shape[-1]:
            raise InputError(
                f"Expected `set_images` of shape [U, M] with one M for all corpora, "
                f"received {shape} in {where}, {corpora[0].set_images.shape} in "
                f"{corpora[0].name!r}."
            )
        if not len(corpus.text_set) or not shape[0] or not shape[1]:
            raise InputError(
                f"Expected at least one text with an image, received "
                f"{len(corpus.text_set)} texts and {shape[0]} image sets in {where}. "
                "Look at its split and filters."
            )
        if len(corpus.text_set) >= 2**31:
            raise InputError(
                f"Expected fewer than 2^31 texts, received {len(corpus.text_set)} in "
                f"{where}."
            )
        if len(corpus.image_ids) != shape[0]:
            raise InputError(
                f"Expected one image for each of {shape[0]} image sets, received "
                f"{len(corpus.image_ids)} in {where}."
            )
        low, high = corpus.set_images.min(), corpus.set_images.max()
        if low < 0 or high >= images:
            raise InputError(
                f"Expected image rows 0 to {images - 1} in `set_images`, received "
                f"{low} to {high} in {where}."
            )
        if not (0 < corpus.weight < 2**20):
            raise InputError(
                f"Expected a weight above 0, received {corpus.weight} in {where}. "
                "Leave a corpus out by removing it from `data.corpora`."
            )


def check_integer(name: str, value: int, least: int) -> int:
    """Returns `value` as an int. Raises InputError unless it is one, >= `least`."""
    if isinstance(value, bool) or value != int(value) or value < least:
        raise InputError(
            f"Expected an integer of at least {least} for `{name}`, received {value!r}."
        )
    return int(value)
