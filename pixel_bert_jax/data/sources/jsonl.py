"""Your own photos: a JSON Lines file, whose lines are objects with one image each.

    {"image": "photos/1.jpg", "texts": ["a dog", "a brown dog runs"]}

"image" is a path relative to the folder of the photos; "texts" are its captions.
Optional: "split"; "height" and "width", which have to be the photo's size in pixels
after the rotation by its EXIF orientation; "coco_id", COCO's number of a photo of COCO,
by which it is recognised in other corpora. Any other field is an error.

Either all lines have a "split" or none. Without `splits` in the corpus's config, the
names are those of `SPLITS`. If no line has a split, all are used for training and
evaluation, which is refused unless `data.allow_overlap` names the split.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files
from pixel_bert_jax.types import InputError, nearest

FIELDS = ("image", "texts", "split", "height", "width", "coco_id")
SPLITS = {
    "train": ("train",),
    "evaluate": ("evaluate", "val", "dev", "validation"),
    "predict": ("test",),
}
EVERYTHING = {"train": ("",), "evaluate": ("",)}


class JsonLinesSource(files.AnnotatedPhotos):
    """The images of some splits; an image's key is its path.

    Attributes:
      splits: names of the splits in the file; ("",) if the file has none.
      known: all names that the file may have; empty if it may have any.
    """

    upright = True

    def __init__(
        self,
        name: str,
        annotations: Path,
        folder: Path,
        splits: Sequence[str],
        known: Collection[str] = (),
    ):
        super().__init__(name, annotations, folder)
        self.splits, self.known = tuple(splits), frozenset(known)
        one = splits[0] if len(splits) == 1 else list(splits)
        self.identity = {**self.identity, "split": one}

    def _listed(self) -> Iterator[files.Listed]:
        seen: set[str] = set()
        found: collections.Counter[str] = collections.Counter()
        for number, image in self._records(self.problems, found):
            if image["image"] in seen:
                where = f"{self.annotations[0]}, line {number}: {image['image']}"
                self.problems.add("duplicate image", where)
                continue
            seen.add(image["image"])
            size = (image["height"], image["width"]) if "height" in image else None
            yield files.Listed(image["image"], number, size, image.get("coco_id"))
        if not seen and not self.problems:
            counts = ", ".join(f"{split!r} ({n:,})" for split, n in found.items())
            wanted = " or ".join(map(repr, self.splits))
            raise InputError(
                f"{self.annotations[0]}: no image of the split {wanted}; it has "
                f"{counts or 'no line'}."
            )

    def _texts(self) -> Iterator[tuple[str, str]]:
        for number, image in self._records(None, collections.Counter()):
            for n, text in enumerate(image["texts"]):
                if self.is_caption(text, f"line {number}, texts[{n}]"):
                    yield image["image"], text

    def _records(
        self, problems: base.Problems | None, found: collections.Counter[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (line number, record) of these splits.

        Args:
          problems: receives the faults of all lines; None: they are ignored.
          found: receives the number of lines of each split.
        """
        path = self.annotations[0]
        homes: dict[str, str] = {}  # split of each image
        for number, line in files.lines(path):
            if not line.strip():
                continue
            fault, image = _read(line)
            fault = fault or self._fault_of_split(image, homes)
            if fault:
                if problems is not None:
                    where = f"{path}, line {number}: {line.strip()[:120]}"
                    problems.add(fault, where)
                continue
            split = image.get("split", "")
            found[split] += 1
            if split in self.splits:
                yield number, image

    def _fault_of_split(self, image: Mapping[str, Any], homes: dict[str, str]) -> str:
        """Returns the fault of a record's split, "" if there is none."""
        split = image.get("split", "")
        if self.splits == ("",):
            return split and "line with a split, where the first line has none"
        if not split:
            return "line without a split, where others have one"
        if self.known and split not in self.known:
            return (
                f"split {split!r}{nearest(split, self.known)}; expected "
                f"{', '.join(sorted(self.known))}, or `splits` in the corpus's config"
            )
        home = homes.setdefault(image["image"], split)
        return "image in two splits" if home != split else ""


def build(config: Mapping[str, Any], split: str, root: Path | None) -> JsonLinesSource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; annotations: the file, or one for each split; images: the folder of
        the photos (default: `root`); splits: names of each split in the file, {"train":
        ..., "evaluate": ...} (default: see the module).
      split: "train", "evaluate" or "predict".
      root: folder to which relative paths are relative.

    Raises:
      InputError: a field or a file is missing, or a field is unknown.
    """
    base.only(config, ["name", "annotations"], ["images", "splits"])
    annotations = files.resolve(config, "annotations", split, root)
    named = bool(config.get("splits")) or _names_splits(annotations)
    default = SPLITS if named else EVERYTHING
    return JsonLinesSource(
        name=config["name"],
        annotations=annotations,
        folder=files.resolve(config, "images", split, root, default="."),
        splits=files.split_names(config, split, default),
        known=[] if config.get("splits") else [n for s in default.values() for n in s],
    )


def _names_splits(path: Path) -> bool:
    """Returns whether the first line has a split; then all lines must have one."""
    try:
        first = next((line for _, line in files.lines(path) if line.strip()), "")
        return "split" in json.loads(first)
    except (ValueError, TypeError):  # reported when the index is built
        return False


def _read(line: str) -> tuple[str, dict[str, Any]]:
    """Returns ("", record) of a line, or (fault, {})."""
    fault, image = files.parse_line(line)
    if fault:
        return fault, {}
    for field in image:
        if field not in FIELDS:
            return f"unknown field {field!r}{nearest(field, FIELDS)}", {}
    numbers = [f for f in ("height", "width", "coco_id") if f in image]
    sides = [f for f in ("height", "width") if f in image]
    if (
        not isinstance(image.get("image"), str)
        or not image["image"]
        or not isinstance(image.get("texts"), list)
        or not isinstance(image.get("split", ""), str)
        or not all(files.is_integer(image[f]) for f in numbers)
        or not all(image[f] > 0 for f in sides)
        or len(sides) == 1
    ):
        return (
            "broken record (expected a text image, a list texts; a text split, "
            "integers height and width above 0, an integer coco_id)"
        ), {}
    return "", image
