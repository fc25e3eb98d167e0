"""What a source of images and texts is, and how faults of its files are reported.

A source lists its images and texts once, when the index is built, and reads single
images for ever after. Constructing one is cheap: it opens no
annotation file, because a run with a ready index never needs one.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.types import InputError, nearest

MISSING = "missing image file"
"""The fault of an image whose file is not there."""
SHOWN = 10
"""How many offenders of each kind of fault a message lists."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source.

    Attributes:
      key: unique name inside the source; `Source.read` takes it.
      image_id: the source's own number of the image.
      height, width: size in pixels, as stored or, of an `upright` source, as seen.
      coco_id: COCO's number of the photo, if it is one: pictures of different corpora
        are the same picture where these agree.
      fault: why the image cannot be used, "" if it can: `data.on_bad_image` decides
        whether it is left out of the index with its texts.
    """

    key: str
    image_id: int
    height: int
    width: int
    coco_id: int | None = None
    fault: str = ""


class Problems:
    """Faults of annotations, collected so that one run reports all of them."""

    def __init__(self):
        self.count: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        """Counts a fault.

        Args:
          kind: what is wrong, for example "missing image file".
          where: the file and record.
        """
        self.count[kind] += 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < SHOWN:
            shown.append(where)

    def update(self, other: Problems) -> None:
        """Adds the faults of `other`."""
        for kind, number in other.count.items():
            self.count[kind] += number
            shown = self.examples.setdefault(kind, [])
            shown.extend(other.examples[kind][: SHOWN - len(shown)])

    def __bool__(self) -> bool:
        return bool(self.count)

    def __str__(self) -> str:
        lines = []
        for kind, number in self.count.items():
            shown = self.examples[kind]
            more = f" (the first {len(shown)})" if number > len(shown) else ""
            lines.append(f"{number} x {kind}{more}:")
            lines.extend(f"  {where}" for where in shown)
        return "\n".join(lines)

    def raise_if_any(self, title: str) -> None:
        """Raises InputError with all faults if there are any."""
        if self:
            total = sum(self.count.values())
            faults = "one fault" if total == 1 else f"{total:,} faults"
            raise InputError(f"{title}: {faults} in the annotations.\n{self}")


class Source:
    """Images with texts, in one on-disk format or generated.

    A format derives from it and gives `files`, `images`, `texts` and `read`; all else
    has a default that it may replace.

    Attributes:
      name: the corpus.
      identity: what besides the files decides the content (split, seed, options):
        plain values that json can hold. An index of another identity is not reused.
      problems: faults that `images()` and `texts()` have found, for which no index is
        built.
      notes: remarks on what they have found, one line each.
      upright: photos are turned as their EXIF orientation says. It is False where
        annotations give sizes or places of the photos as they are stored.
      images_per_text: M; with M > 1 a text has a tuple of M keys.
      annotated: a text has a third item that json can hold: what is to be learned of
        it, such as an answer.
      names_answers: its answers count for the vocabulary of answers.
      word_classes: names of kinds of words and their words, such as {"colour":
        {"red", ...}}, for metrics of single kinds; {} for real photos.
      oracle: returns what can be known of the scene of a number, the ceiling of
        metrics; None for real photos.
    """

    upright: bool = False
    images_per_text: int = 1
    annotated: bool = False
    names_answers: bool = True
    word_classes: Mapping[str, frozenset[str]] = {}
    oracle: Callable[[int], Any] | None = None

    def __init__(self, name: str, identity: Mapping[str, Any]):
        self.name = name
        self.identity = identity
        self.problems = Problems()
        self.notes: list[str] = []

    def files(self) -> list[Path]:
        """Returns the annotation files; [] if the source is generated."""
        return []

    def path(self, key: str) -> Path | None:
        """Returns the file of an image; None if the source is generated."""
        del key
        return None

    def place(self) -> str:
        """Returns what keys are relative to: equal keys of equal places are one image.

        By default it is the folder of the images.
        """
        folder = self.path("")
        return str(self.identity if folder is None else folder.resolve())

    def images(self) -> Iterator[ImageRecord]:
        """Yields every image once."""
        raise NotImplementedError

    def texts(self) -> Iterator[tuple[Any, ...]]:
        """Yields (image key, text), or (keys, text) of several images.

        If `annotated`, (key, text, annotation).
        """
        raise NotImplementedError

    def read(self, key: str) -> bytes | np.ndarray:
        """Returns an encoded file, or uint8 RGB [h, w, 3] if generated."""
        raise NotImplementedError


def only(
    mapping: Mapping[str, Any], required: Iterable[str], optional: Iterable[str]
) -> None:
    """Checks the fields of a corpus' config.

    "source", "weight", "evaluated" and "needs" are always valid; what they mean does
    not depend on the format.

    Args:
      mapping: one element of `config.data.corpora`.
      required: fields that must be given.
      optional: fields that may be given.

    Raises:
      InputError: a required field is missing or a field is unknown.
    """
    required = list(required)
    known = [*required, *optional, "source", "weight", "evaluated", "needs"]
    for field in required:
        if mapping.get(field) in (None, ""):
            raise InputError(
                f"config.data.corpora: source {mapping.get('source')!r} needs "
                f"{field!r}; received {dict(mapping)}."
            )
    for field in mapping:
        if field not in known:
            raise InputError(
                f"config.data.corpora: source {mapping.get('source')!r} has no field "
                f"{field!r}{nearest(field, known)}; valid: {', '.join(known)}."
            )
