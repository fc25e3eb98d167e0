"""The interface of sources of images and texts, and reports of faults in their files.

A source lists its images and texts once, when the index is built; afterwards it only
reads single images. Its constructor opens no annotation file, because a run with a
complete index needs none.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pixel_bert_jax.types import InputError, nearest

MISSING = "missing image file"
"""The fault of an image whose file does not exist."""
SHOWN = 10
"""Number of records that a message lists for each kind of fault."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source.

    Attributes:
      key: name of the image, unique in the source, for `Source.read`.
      image_id: number of the image in the source.
      height, width: size in pixels; if the source is `upright`, after the rotation.
      coco_id: COCO's number of a photo of COCO. Images of different corpora with the
        same number are the same image.
      flickr_id: Flickr's number of the photo, if it is known.
      fault: why the image cannot be used, "" if it can; see `data.on_bad_image`.
    """

    key: str
    image_id: int
    height: int
    width: int
    coco_id: int | None = None
    flickr_id: int | None = None
    fault: str = ""


class Excluded(NamedTuple):
    """Photos that are left out, by their numbers; see `data.exclude`."""

    coco: frozenset[int] = frozenset()
    flickr: frozenset[int] = frozenset()

    def has(self, record: ImageRecord) -> bool:
        """Returns whether an image is one of them."""
        return record.coco_id in self.coco or record.flickr_id in self.flickr

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the numbers."""
        text = json.dumps([sorted(self.coco), sorted(self.flickr)])
        return hashlib.sha256(text.encode()).hexdigest()


class Problems:
    """Faults of annotations, collected so that one message reports all of them."""

    def __init__(self):
        self.count: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        """Adds a fault of a kind, such as "missing image file", at a file or record."""
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
        """Raises InputError if there are faults; the message lists them."""
        if self:
            total = sum(self.count.values())
            faults = "one fault" if total == 1 else f"{total:,} faults"
            raise InputError(f"{title}: {faults} in the annotations.\n{self}")


class Source:
    """Images with texts, in one on-disk format or generated.

    Subclasses implement `files`, `images`, `texts` and `read`; everything else has a
    default.

    Attributes:
      name: name of the corpus.
      identity: what decides the content besides the files (split, seed, options), as
        JSON values. An index of another identity is not reused.
      problems: faults found by `images()` and `texts()`; with any, no index is built.
      notes: lines to print when the index is built.
      upright: whether photos are rotated by their EXIF orientation. False if the
        annotations refer to the pixels as stored.
      images_per_text: M, the number of images of each text.
      annotated: whether each text has an annotation, such as its answers.
      names_answers: whether its answers count for the vocabulary of answers.
      word_classes: class -> its words, such as {"colour": {"red", ...}}, for metrics of
        single classes; {} for real photos.
      oracle: returns the oracle of the scene with a number; None for real photos.
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
        self.excluded = Excluded()

    def exclude(self, photos: Excluded) -> None:
        """Leaves photos out of the index, with their texts."""
        self.excluded = photos
        self.identity = {**self.identity, "exclude": photos.fingerprint}

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
        """Yields (image key, text), or (image key, text, annotation) if `annotated`.

        With M > 1 images per text, the key is a tuple of M keys. An annotation is a
        JSON value.
        """
        raise NotImplementedError

    def read(self, key: str) -> bytes | np.ndarray:
        """Returns the bytes of an image file, or uint8 RGB [h, w, 3] if generated."""
        raise NotImplementedError


def only(
    mapping: Mapping[str, Any], required: Iterable[str], optional: Iterable[str]
) -> None:
    """Checks the fields of a corpus's config, an element of `config.data.corpora`.

    "source", "weight", "evaluated" and "needs" do not depend on the format and are
    always valid.

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
